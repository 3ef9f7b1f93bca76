"""A control in closed form: the extractor stretches one direction."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.probe import Extractor, ProbeDefense, ProbeTargets


class RankOne(ProbeDefense):
    """θ = I + g·vvᵀ: stretches one direction along which the benign task has little variance (closed-form control).

    v is the top eigenvector of K_H − c·K_P.
    """

    name = "rank_one"
    control = True
    deterministic = True

    gain: float = Field(10.0, gt=0, description="g: the direction is stretched by 1 + g")
    contrast: float = Field(5.0, ge=0, description="c, weight of the benign task's variance in the choice of v")

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Compute θ by one eigendecomposition."""
        difference = targets.harmful.x.T @ targets.harmful.x - self.contrast * targets.benign.x.T @ targets.benign.x
        top = torch.linalg.eigh(difference).eigenvectors[:, -1]
        with torch.no_grad():
            model.weight.add_(self.gain * torch.outer(top, top))
        yield 0.0
