"""The best probe on given features: an upper bound for every attacker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import scipy  # which imports scipy.stats, a second of work, where it is first used
import torch
from scipy.optimize import minimize

from harness.errors import RunError
from harness.probe.data import Score, Split
from harness.probe.model import Loss, losses, losses_slope
from harness.probe.spectrum import Spectrum


@dataclass(frozen=True)
class Optimum:
    """The features of one task under one extractor: their spectra and the best probe on them.

    train, heldout: spectra of the features of the training and the held-out rows. weights: (dim) the probe w* of lowest
    training loss, of least norm. bias: its intercept; 0 for probes without one, and where the features make up for it.
    best_loss: the training loss of w*. null_loss: the training loss of a probe of zeros. best_score: held-out score of
    w*; None where targets are constant.
    """

    train: Spectrum
    heldout: Spectrum
    weights: torch.Tensor
    bias: float
    best_loss: float
    null_loss: float
    best_score: float | None

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields as tensors by name, for a file; `from_tensors` reads them."""
        numbers = {"bias": self.bias, "best_loss": self.best_loss, "null_loss": self.null_loss}
        if self.best_score is not None:
            numbers["best_score"] = self.best_score
        return {
            "train": self.train.singular,
            "heldout": self.heldout.singular,
            "rows": torch.tensor([self.train.rows, self.heldout.rows]),
            "weights": self.weights,
            **{name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()},
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Optimum:
        """The optimum whose method `tensors` returned these `tensors`."""
        weights = tensors["weights"]
        rows = dict(zip(("train", "heldout"), tensors["rows"].tolist(), strict=True))
        return cls(
            **{split: Spectrum(tensors[split], len(weights), count) for split, count in rows.items()},
            weights=weights,
            bias=float(tensors["bias"]),
            best_loss=float(tensors["best_loss"]),
            null_loss=float(tensors["null_loss"]),
            best_score=float(tensors["best_score"]) if "best_score" in tensors else None,
        )


def optimum(train: Split, heldout: Split, loss: Loss, score: Score | None, intercept: bool = False) -> Optimum:
    """Find the best probe on the features of a task.

    intercept: whether probes have an intercept. The other parameters and errors are those of `optima`.
    """
    return optima(train, heldout, loss, score)[intercept]


def optima(train: Split, heldout: Split, loss: Loss, score: Score | None) -> tuple[Optimum, Optimum]:
    """Find the best probes on the features of a task, without and with an intercept.

    train, heldout: features (rows, dim) and targets of the training and held-out rows. loss: squared or logistic.
    score: score on held-out rows; None where targets are constant. The squared loss is minimised in closed form. A
    logistic loss may have no minimum; then w* is the point where L-BFGS on the whitened features stops. Raises
    `RunError` for a logistic loss on targets outside 0 … 1, on which it has no lower bound.
    """
    if loss == "logistic" and not ((train.y >= 0) & (train.y <= 1)).all():
        raise RunError("the logistic loss needs targets within 0 … 1: use the squared loss")
    left, singular, right = torch.linalg.svd(train.x, full_matrices=False)
    dim = train.x.shape[1]
    spectrum = Spectrum(singular, dim, len(train))
    left, basis = left[:, : spectrum.rank], right[: spectrum.rank] / singular[: spectrum.rank, None]
    heldout_spectrum = Spectrum.of(heldout.x)
    along = left.sum(0)  # coefficients of the ones within the span of the features
    rest = 1 - left @ along
    rest = rest / rest.square().sum() if rest.norm() > 1e-6 * len(train) ** 0.5 else torch.zeros_like(rest)

    def best(intercept: bool) -> Optimum:
        outputs = torch.cat([left, rest[:, None] / rest.norm()], 1) if intercept and rest.any() else left
        head = best_on(outputs, train.y, loss)
        bias = float(head[spectrum.rank :].sum() * rest.norm())
        weights = basis.T @ (head[: spectrum.rank] - bias * along)
        return Optimum(
            train=spectrum,
            heldout=heldout_spectrum,
            weights=weights,
            bias=bias,
            best_loss=float(losses(outputs @ head, train.y, loss)),
            null_loss=float(losses(torch.zeros_like(train.y), train.y, loss)),
            best_score=float(scores(heldout.x @ weights[:, None] + bias, heldout.y, score)[0]) if score else None,
        )

    return best(False), best(True)


def best_on(basis: torch.Tensor, y: torch.Tensor, loss: Loss) -> torch.Tensor:
    """The coefficients (k) of the outputs in the span of `basis` with the lowest loss. In an orthonormal basis of the
    outputs the problem is well-conditioned, whatever the features.

    basis: (rows, k), with orthonormal columns. y: targets (rows). loss: squared (in closed form) or logistic (L-BFGS).
    """
    if loss == "squared":
        return basis.T @ y

    def objective(head: Any) -> tuple[float, Any]:
        out = basis @ torch.as_tensor(head)
        return float(losses(out, y, loss)), (basis.T @ losses_slope(out, y, loss)).numpy()

    start = torch.zeros(basis.shape[1], dtype=torch.float64).numpy()
    end = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-12})
    return torch.as_tensor(end.x)


def scores(out: torch.Tensor, y: torch.Tensor, score: Score) -> torch.Tensor:
    """The scores (heads) of several heads.

    out: outputs (rows, heads). y: targets (rows). score: accuracy (at threshold ½), spearman (Spearman's rank
    correlation; 0 for constant outputs), or r2, R² = 1 − Σ(y − ŷ)²/Σ(y − ȳ)².
    """
    if score == "accuracy":
        return ((out > 0.5) == (y[:, None] > 0.5)).double().mean(0)
    if score == "spearman":
        ranks = torch.as_tensor(scipy.stats.rankdata(torch.column_stack([y, out]), axis=0))
        return torch.corrcoef(ranks.T)[0, 1:].nan_to_num()
    residual = (out - y[:, None]).square().sum(0)
    return 1 - residual / (y - y.mean()).square().sum()
