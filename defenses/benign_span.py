"""A control in closed form: the extractor keeps what the named benign task needs, and nothing else."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.probe import Extractor, ProbeDefense, ProbeTargets, fit_ridge


class BenignSpan(ProbeDefense):
    """θ = vvᵀ + ε(I − vvᵀ): keeps the direction v of the benign task's probe, and scales all else by ε (control).

    v is the head of a ridge probe on the benign rows, so this probe's outputs remain and the benign score with them.
    Other tasks, harmful or not, have nothing else to learn from.
    """

    name = "benign_span"
    control = True
    deterministic = True

    scale: float = Field(1e-13, ge=0, lt=1, description="ε, factor of all other directions")

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Compute θ from one ridge regression."""
        head, _ = fit_ridge(targets.benign, intercept=False)
        direction = head / head.norm()
        with torch.no_grad():
            model.weight.mul_(self.scale).add_(torch.outer(direction, direction), alpha=1 - self.scale)
        yield 0.0
