"""Scaling of the features before a linear head learns from them, so that their own scale hides nothing from it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from harness import count_gradient
from harness.deep import AttackRows, Network, in_parts, standardisation

Scaling = Literal["raw", "standardised", "whitened"]
DESCRIPTION = (
    "raw: divided by one number, the root of their mean square over rows and features, so that their scale decides "
    "nothing; standardised: less their mean, divided by their standard deviations; whitened: less their mean, "
    "multiplied by (C + εI)^(-½), C their covariance and ε a hundredth of its mean eigenvalue"
)
"""What the scalings of features are, for the help of a field."""


def scaling(x: torch.Tensor, kind: Scaling) -> tuple[torch.Tensor, torch.Tensor]:
    """The shift (dim) and the matrix (dim, dim) by which features `x` (rows, dim) become (x - shift) @ matrix."""
    if kind == "raw":
        return torch.zeros_like(x[0]), torch.eye(x.shape[1]) / x.square().mean().sqrt()
    centre, scale = standardisation(x)
    if kind == "standardised":
        return centre, torch.diag(1 / scale)
    covariance = (x - centre).double().T @ (x - centre).double() / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    ridged = values.clamp(min=0) + 1e-2 * values.mean()
    return centre, ((vectors * ridged.rsqrt()) @ vectors.T).to(x.dtype)


class ScaledLinear(nn.Linear):
    """A linear layer of zeros on scaled features.

    shift (dim), matrix (dim, dim): as from `scaling`; they are not trained. classes: number of outputs.
    """

    shift: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, shift: torch.Tensor, matrix: torch.Tensor, classes: int) -> None:
        super().__init__(len(shift), classes, device="meta")  # draws no random numbers
        self.to_empty(device=shift.device)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.register_buffer("shift", shift)
        self.register_buffer("matrix", matrix)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs (rows, classes) for features `x` (rows, dim) before the scaling."""
        return super().forward((x - self.shift) @ self.matrix)


def scale_features(model: Network, data: AttackRows, kind: Scaling) -> None:
    """Give `model`, in inference mode, a new head of zeros on its features, scaled as they are now on the rows `data`;
    it counts as half a gradient evaluation."""
    count_gradient(len(data), 0.5)
    model.head = ScaledLinear(*scaling(in_parts(model.features, data.x), kind), data.classes)
