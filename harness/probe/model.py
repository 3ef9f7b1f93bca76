"""The released model, a linear feature extractor, and the linear probe that is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from scipy.optimize import minimize_scalar
from torch import nn

from harness import checkpoints
from harness.errors import RunError
from harness.meter import count_gradient
from harness.probe.data import Split
from harness.store.tensors import load_tensors, save_tensors

Loss = Literal["squared", "logistic"]

FILE = "model.safetensors"


class Extractor(nn.Linear):
    """A linear feature extractor f(x) = x·θ + b of inputs x (rows, dim), with θ (dim, dim) and b (dim), float64;
    `weight` is θᵀ. dim: number of inputs and of features. It is the identity at first: the undefended model."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, dtype=torch.float64)

    def reset_parameters(self) -> None:
        """Set the identity. This draws no random numbers, so the first draw of a seed belongs to the defense."""
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def features(self, split: Split) -> Split:
        """The rows of `split` with features (rows, dim) instead of inputs, without gradients."""
        return Split(self(split.x), split.y)

    def save(self, folder: Path) -> None:
        """Save the weights in the artifact folder `folder`."""
        save_tensors({name: value.detach() for name, value in self.state_dict().items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Extractor:
        """The extractor saved in the artifact folder `folder`."""
        tensors = load_tensors(folder / FILE)
        extractor = cls(len(tensors["bias"]))
        extractor.load_state_dict(tensors)
        return extractor

    @classmethod
    def released(cls, folder: Path, dim: int) -> Extractor:
        """The extractor of `dim` features in the folder `folder` of a checkpoint; raises `RunError` if it has none."""
        path = folder / FILE
        tensors = checkpoints.read_tensors(folder, FILE)
        extractor = cls(dim)
        sizes = {name: tuple(value.shape) for name, value in extractor.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in tensors.items()}
        if given != sizes:
            raise RunError(f"{path} has tensors of the sizes {given}; a released extractor of this task has {sizes}")
        if not all(value.isfinite().all() for value in tensors.values()):
            raise RunError(f"{path} has values that are not finite")
        extractor.load_state_dict(tensors)
        return extractor


@torch.no_grad()
def initial_extractor(extractor: Extractor, generator: torch.Generator) -> None:
    """Initialise `extractor` in place as torch initialises a linear layer, with random numbers from `generator`.

    The numbers are drawn in float32 and widened to float64, as in the paper's code, so a seed gives the same weights as
    there.
    """
    weight, bias = (torch.empty(part.shape, dtype=torch.float32) for part in (extractor.weight, extractor.bias))
    bound = extractor.in_features**-0.5
    extractor.weight.copy_(nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator))
    extractor.bias.copy_(bias.uniform_(-bound, bound, generator=generator))


class LinearProbe(nn.Module):
    """A linear head w (dim) with a bias b (scalar) on fixed features x (rows, dim); outputs o = xw + b (rows).

    dim: number of features. loss: `squared`, ‖o − y‖²/rows, or `logistic`, the mean binary cross-entropy of sigmoid(o)
    against y in [0, 1]. The head starts at zero, so attacks on all extractors start at the same loss. b is no parameter
    and stays zero unless the attacker has an intercept (see `ProbeAttacker`).
    """

    bias: torch.Tensor

    def __init__(self, dim: int, loss: Loss = "squared") -> None:
        super().__init__()
        self.kind = loss
        self.weight = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (rows) on features x (rows, dim)."""
        return x @ self.weight + self.bias

    def loss(self, data: Split) -> torch.Tensor:
        """The loss on the features and targets in `data`: a differentiable scalar. It counts as a gradient
        evaluation."""
        count_gradient(len(data))
        return losses(self(data.x), data.y, self.kind)

    @torch.no_grad()
    def gradient(self, data: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar) on `data` and its gradient (dim) with respect to the weight, in closed form."""
        count_gradient(len(data))
        out = self(data.x)
        error = 2 * (out - data.y) if self.kind == "squared" else out.sigmoid() - data.y
        return losses(out, data.y, self.kind), data.x.T @ error / len(data)

    @torch.no_grad()
    def smoothness(self, data: Split) -> float:
        """The smoothness constant L of the loss on `data`, i.e. its largest curvature: 2σ₁(XᵀX)/rows for the squared
        loss; for the logistic loss the upper bound σ₁(XᵀX)/(4 rows)."""
        largest = float(torch.linalg.matrix_norm(data.x, 2)) ** 2
        return (2.0 if self.kind == "squared" else 0.25) * largest / len(data)

    @torch.no_grad()
    def exact_step(self, data: Split, direction: torch.Tensor) -> float:
        """The step t ≥ 0 that minimises the loss on `data` at w + t·direction; 0 if the loss rises along `direction`.

        direction: (dim). Exact line search (Boyd & Vandenberghe, 2004, §9.2): in closed form for the squared loss, by
        Brent's method for the logistic loss. It counts as half a gradient evaluation.
        """
        count_gradient(len(data), 0.5)
        out, change = self(data.x), data.x @ direction
        slope = losses_slope(out, data.y, self.kind) @ change
        if slope >= 0:
            return 0.0
        if self.kind == "squared":
            return float(-slope / (2 * change @ change / len(data)))
        first = float(-slope / (0.25 * change @ change / len(data)))
        along = minimize_scalar(
            lambda t: float(losses(out + t * change, data.y, self.kind)), bracket=(0.0, first), tol=1e-10
        )
        return max(float(along.x), 0.0)


def losses(out: torch.Tensor, y: torch.Tensor, kind: Loss) -> torch.Tensor:
    """The mean loss over rows: a scalar, or (heads) for the outputs of several heads.

    out: outputs (rows) or (rows, heads). y: targets (rows). kind: squared or logistic.
    """
    target = y if out.ndim == 1 else y[:, None].expand_as(out)
    if kind == "squared":
        return (out - target).square().mean(0)
    return nn.functional.binary_cross_entropy_with_logits(out, target, reduction="none").mean(0)


def losses_slope(out: torch.Tensor, y: torch.Tensor, kind: Loss) -> torch.Tensor:
    """The derivative (rows) of the mean loss with respect to the outputs.

    out: outputs (rows). y: targets (rows). kind: squared or logistic.
    """
    return (2 * (out - y) if kind == "squared" else out.sigmoid() - y) / len(y)
