"""Condition numbers of feature Hessians H(θ) = θᵀKθ.

Source: "Model Immunization from a Condition Number Perspective" (ICML 2025). FᵀF and the Gram matrix FFᵀ have the same
nonzero eigenvalues, so these functions take the Gram matrix, which is smaller: a batch of 64 rows has a 64×64 Gram
matrix for any number of features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Policy = Literal["floor", "range", "fixed-rank"]

FLOOR = 1e-6
"""Constant that the paper's code adds to the diagonal of a Hessian before it computes the condition number."""


def gram(features: torch.Tensor) -> torch.Tensor:
    """The Gram matrix FFᵀ (rows, rows) of `features` F (rows, dim)."""
    return features @ features.T


def condition_number(gram: torch.Tensor, floor: float | None = None) -> torch.Tensor:
    """The condition number κ of a Hessian as a differentiable scalar.

    gram: Gram matrix (rows, rows), which has the Hessian's nonzero eigenvalues. floor: None: κ = σ₁/σ_min over the
    nonzero eigenvalues; otherwise κ = (σ₁ + floor)/floor, the value that the paper's released code computes for a
    rank-deficient Hessian.
    """
    eigenvalues = torch.linalg.eigvalsh(gram)
    if floor is not None:
        return (eigenvalues[-1] + floor) / floor
    nonzero = eigenvalues > eigenvalues[-1] * len(gram) * torch.finfo(gram.dtype).eps
    return eigenvalues[-1] / eigenvalues[nonzero][0]


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of a feature matrix F (rows, dim).

    singular: its singular values s, (min(rows, dim)) float64, descending. The dim eigenvalues of the Hessian FᵀF are s²
    and, if rows < dim, zeros.
    """

    singular: torch.Tensor
    dim: int
    rows: int

    @classmethod
    def of(cls, features: torch.Tensor) -> Spectrum:
        """The spectrum of `features` (rows, dim), computed in float64."""
        rows, dim = features.shape
        return cls(torch.linalg.svdvals(features.double()), dim, rows)

    @property
    def rank(self) -> int:
        """Numerical rank: the number of singular values above s₁ · max(rows, dim) · ε."""
        threshold = self.singular[0] * max(self.rows, self.dim) * torch.finfo(torch.float64).eps
        return int((self.singular > threshold).sum())

    @property
    def norm(self) -> float:
        """The Frobenius norm ‖F‖_F."""
        return float(self.singular.square().sum().sqrt())

    @property
    def floor_hit(self) -> bool:
        """Whether the smallest eigenvalue is at most `FLOOR`, so that κ under `floor` depends on σ₁ only."""
        return self._smallest <= FLOOR

    @property
    def _smallest(self) -> float:
        return float(self.singular[-1]) ** 2 if self.rank == self.dim else 0.0

    def kappa(self, policy: Policy, rank: int | None = None, scale: float = 1.0) -> float:
        """The condition number of the Hessian of scale·F, whose eigenvalues are σ.

        policy: the κ policy. floor (the paper's): (σ₁ + 1e-6)/(σ_min + 1e-6) over all eigenvalues, with σ_min = 0 if F
        is rank-deficient; range: σ₁/σ_r with r the numerical rank; fixed-rank: σ₁/σ_r with r = `rank`, infinite if F
        has a smaller rank. rank: needed for fixed-rank only. scale: factor of F. Raises `ValueError` for fixed-rank
        without a rank.
        """
        largest = float(self.singular[0]) ** 2
        if policy == "floor":
            return (scale**2 * largest + FLOOR) / (scale**2 * self._smallest + FLOOR)
        r = self.rank if policy == "range" else rank
        if r is None:
            raise ValueError("κ policy fixed-rank needs a rank")
        smallest = float(self.singular[r - 1]) ** 2 if r <= self.rank else 0.0
        return largest / smallest if smallest > 0 else float("inf")
