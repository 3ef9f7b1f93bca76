"""The released training step as its paper's code takes it, plainly: dense Hessians, eigvalsh and autograd through
them, dense solves in a dummy layer. Slow; the oracle for `defenses._extractor`."""

from __future__ import annotations

import torch
from torch import nn


class DummyLayer(torch.autograd.Function):
    """x·Wᵀ + b, whose backward multiplies the weight's gradient by the inverse of XᵀX + ridge."""

    @staticmethod
    def forward(ctx, x, weight, bias, ridge, side):
        ctx.save_for_backward(x)
        ctx.ridge, ctx.side = ridge, side
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        gradient = upstream.T @ x
        k = x.T @ x + ctx.ridge * torch.eye(x.shape[1], dtype=x.dtype)
        if ctx.side == "released":
            gradient = torch.linalg.solve(k, gradient)
        elif ctx.side == "paper":
            gradient = torch.linalg.solve(k, gradient.T).T
        return None, gradient, upstream.sum(0), None, None


def objective(benign, harmful, y, weight, bias, head, settings):
    """The condition-number defense's loss on one pair of batches."""
    dim = benign.shape[1]
    identity = 1e-6 * torch.eye(dim, dtype=benign.dtype)
    features = [
        DummyLayer.apply(x, weight, bias, ridge, settings["side"])
        for x, ridge in ((benign, settings["ridges"][0]), (harmful, settings["ridges"][1]))
    ]
    s_benign, s_harmful = (f.T @ f for f in features)
    largest = torch.linalg.eigvalsh(s_benign + identity)[-1]
    eigenvalues = torch.linalg.eigvalsh(s_harmful + identity)
    smallest = eigenvalues[eigenvalues > 1e-6].min()
    well = largest**2 / 2 - s_benign.square().sum() / (2 * settings["p"])
    ill = 1 / (s_harmful.square().sum() / (2 * settings["k"]) - smallest**2 / 2)
    out = (benign @ weight.T + bias) @ head
    if settings["loss"] == "squared":
        task = (out - y).square().mean()
    else:
        task = nn.functional.binary_cross_entropy_with_logits(out, y)
    return task + settings["weights"][0] * well + settings["weights"][1] * ill


class Trainer:
    """Steps of the reference on a task's rows, from torch's default start, drawn in the released code's order."""

    def __init__(self, targets, settings, lr):
        self.targets, self.settings = targets, settings
        dim = targets.benign.x.shape[1]
        layer = nn.Linear(dim, dim, dtype=torch.float32).double()
        self.weight, self.bias = layer.weight, layer.bias
        self.head = nn.Parameter(torch.randn(dim, dtype=torch.float64))
        self.optimiser = torch.optim.Adam([self.weight, self.bias, self.head], lr=lr)

    def step(self, rows):
        self.optimiser.zero_grad()
        benign, harmful = self.targets.benign, self.targets.harmful
        loss = objective(
            benign.x[rows], harmful.x[rows], benign.y[rows], self.weight, self.bias, self.head, self.settings
        )
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def epochs(self, count, batch=64):
        rows = min(len(self.targets.benign), len(self.targets.harmful))
        for _ in range(count):
            for index in torch.randperm(rows).split(batch)[: rows // batch]:
                yield self.step(index)


HOUSES = {"ridges": (1.0, 1.0), "weights": (100.0, 1e7), "p": 79, "k": 79, "loss": "squared"}
DIGITS = {"ridges": (1.0, 1e-7), "weights": (1.0, 5e7), "p": 28, "k": 28, "loss": "logistic"}
