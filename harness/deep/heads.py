"""A linear head of full strength: what the features of a task allow, with no limit on steps."""

from __future__ import annotations

import torch
from torch import nn

from harness.deep.model import zero_linear
from harness.deep.rows import Rows

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Penalties to choose from, of the head's weight on standardised features."""
ITERATIONS = 50
"""L-BFGS iterations of each penalty."""


def standardisation(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (dim) of features `x` (rows, dim), and the numbers (dim) to divide by: their standard deviations, and 1
    for a feature that hardly varies."""
    spread = x.std(0, correction=0)
    return x.mean(0), torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread))


def fit_head(fit: Rows, validation: Rows, classes: int) -> nn.Linear:
    """The linear head with the lowest cross-entropy on `validation` of those fitted to `fit`.

    fit, validation: features (rows, dim) and classes of the rows. classes: number of classes. For each penalty λ of
    `PENALTIES` it minimises the mean cross-entropy plus ½λ‖W‖² by L-BFGS, on standardised features. The heads are
    fitted one after the other, each from the one before.
    """
    mean, scale = standardisation(fit.x)
    x, held = (fit.x - mean) / scale, (validation.x - mean) / scale
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    best, lowest = (weight.detach(), bias.detach()), float("inf")
    with torch.enable_grad():
        for penalty in PENALTIES:
            _minimise(x, fit.y, weight, bias, penalty)
            with torch.no_grad():
                loss = float(nn.functional.cross_entropy(held @ weight.T + bias, validation.y))
            if loss < lowest:
                best, lowest = (weight.detach().clone(), bias.detach().clone()), loss
    head = zero_linear(x.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(best[0] / scale)
        head.bias.copy_(best[1] - head.weight @ mean)
    return head


def _minimise(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, penalty: float) -> None:
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(x @ weight.T + bias, y) + 0.5 * penalty * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)


@torch.no_grad()
def accuracy(outputs: torch.Tensor, y: torch.Tensor) -> float:
    """Share of rows whose largest output is that of their class. outputs: (rows, classes). y: classes (rows)."""
    return float((outputs.argmax(1) == y).double().mean())
