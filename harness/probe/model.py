"""The released model (a linear feature extractor) and what is trained on it (a linear probe)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors import torch as safetensors
from scipy.optimize import minimize_scalar
from torch import nn

from harness.probe.data import Split

Loss = Literal["squared", "logistic"]

FILE = "model.safetensors"


class Extractor(nn.Linear):
    """Features f(x) = x·θ + b with θ (dim, dim) and b (dim), float64; `weight` is θᵀ. Starts as the identity, no
    feature extractor at all."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, dtype=torch.float64)

    def reset_parameters(self) -> None:
        """Set the identity; draws no random numbers, so that a seed's first draw is the defense's."""
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)

    def save(self, folder: Path) -> None:
        """Leave the weights in an artifact folder."""
        tensors = {name: value.detach().contiguous() for name, value in self.state_dict().items()}
        (folder / FILE).write_bytes(safetensors.save(tensors))

    @classmethod
    def load(cls, folder: Path) -> Extractor:
        """The extractor of an artifact folder."""
        tensors = safetensors.load((folder / FILE).read_bytes())
        extractor = cls(len(tensors["bias"]))
        extractor.load_state_dict(tensors)
        return extractor


@torch.no_grad()
def initial_extractor(extractor: Extractor, generator: torch.Generator) -> None:
    """Give `extractor` the random start of torch's linear layer in place. Drawn in float32 and widened, as the paper's
    code does, so that a seed means the same start as there."""
    weight, bias = (torch.empty(of.shape, dtype=torch.float32) for of in (extractor.weight, extractor.bias))
    bound = extractor.in_features**-0.5
    extractor.weight.copy_(nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator))
    extractor.bias.copy_(bias.uniform_(-bound, bound, generator=generator))


class LinearProbe(nn.Module):
    """A linear head w (dim) on fixed features, without a bias; outputs x·w.

    loss: `squared` ‖xw − y‖²/rows, or `logistic`, the mean binary cross-entropy of sigmoid(xw) against y in
    [0, 1]. The head starts at zero, so every extractor is attacked from the same loss.
    """

    def __init__(self, dim: int, loss: Loss = "squared") -> None:
        super().__init__()
        self.kind = loss
        self.weight = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (rows) or, for heads stacked as columns, (rows, heads)."""
        return x @ self.weight

    def loss(self, data: Split) -> torch.Tensor:
        """The loss on `data`, a scalar that can be differentiated."""
        return losses(data.x @ self.weight, data.y, self.kind)

    @torch.no_grad()
    def gradient(self, data: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar) and its gradient (dim), in closed form."""
        out = data.x @ self.weight
        error = 2 * (out - data.y) if self.kind == "squared" else out.sigmoid() - data.y
        return losses(out, data.y, self.kind), data.x.T @ error / len(data)

    @torch.no_grad()
    def smoothness(self, data: Split) -> float:
        """L, the largest curvature of the loss: 2σ₁(XᵀX)/rows, or σ₁/(4 rows) as the logistic loss's bound."""
        largest = float(torch.linalg.matrix_norm(data.x, 2)) ** 2
        return (2.0 if self.kind == "squared" else 0.25) * largest / len(data)

    @torch.no_grad()
    def exact_step(self, data: Split, direction: torch.Tensor) -> float:
        """The t ≥ 0 that minimises the loss at w + t·direction: exact line search (Boyd & Vandenberghe, §9.2);
        in closed form for the squared loss, by Brent's method for the logistic one."""
        out, change = data.x @ self.weight, data.x @ direction
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
    """Mean loss over rows of outputs (rows) or (rows, heads) against targets (rows)."""
    target = y if out.ndim == 1 else y[:, None].expand_as(out)
    if kind == "squared":
        return (out - target).square().mean(0)
    return nn.functional.binary_cross_entropy_with_logits(out, target, reduction="none").mean(0)


def losses_slope(out: torch.Tensor, y: torch.Tensor, kind: Loss) -> torch.Tensor:
    """Derivative (rows) of the mean loss by the outputs (rows)."""
    return (2 * (out - y) if kind == "squared" else out.sigmoid() - y) / len(y)
