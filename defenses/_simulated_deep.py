"""A simulated attacker of a deep network: losses of its tail and a new head as functions of their weights, for
`defenses._bilevel`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from defenses._bilevel import Loss, Weights
from harness.deep import Network, Rows

Outputs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A loss of outputs (rows, classes) and classes (rows): a scalar."""


def of_tail(model: Network) -> Weights:
    """The weights of the tail of `model`, in torch's order."""
    return tuple(model.tail.parameters())


def new_head(model: Network, classes: int, draw: torch.Generator | None) -> Weights:
    """The weight (classes, dim) and the bias (classes) of a head on the features of `model`: zeros, or with random
    numbers from `draw` as of Glorot & Bengio (2010), with a bias of zeros."""
    weight = torch.zeros(classes, model.head.in_features)
    if draw is not None:
        torch.nn.init.xavier_uniform_(weight, generator=draw)
    return weight, torch.zeros(classes)


def loss_of(model: Network, rows: Rows, measure: Outputs = functional.cross_entropy, *, twice: bool = False) -> Loss:
    """A loss of the outputs on `rows` as a function of the tail's weights (see `of_tail`), followed by the weight and
    the bias of a head. twice: whether it must be twice differentiable, which the default attention on a CPU is not."""
    names = [name for name, _ in model.tail.named_parameters()]

    def loss(weights: Weights) -> torch.Tensor:
        *tail, weight, bias = weights
        with sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext():
            features = functional_call(model.tail, dict(zip(names, tail, strict=True)), rows.x)
        if model.map is not None:
            features = model.map(features)
        return measure(functional.linear(features, weight, bias), rows.y)

    return loss


def inverse_cross_entropy(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """−mean log(1 − p_y) (SOPHON, S&P 2024): minimal where the right class has no probability; its gradient fades
    there."""
    others = outputs.masked_fill(functional.one_hot(y, outputs.shape[1]).bool(), -torch.inf)
    return (outputs.logsumexp(1) - others.logsumexp(1)).mean()


def divergence_from_uniform(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean Kullback–Leibler divergence of the predicted probabilities from equal ones (SOPHON, S&P 2024), 0 where
    all classes are equally likely."""
    classes = torch.tensor(float(outputs.shape[1]))
    return -outputs.log_softmax(1).mean() - classes.log()
