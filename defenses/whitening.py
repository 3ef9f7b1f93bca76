"""A control in closed form: whitening with the benign task's covariance reaches the RIR of a trained defense."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.probe import Extractor, ProbeDefense, ProbeTargets


class Whitening(ProbeDefense):
    """θ = (K_P + ρσ₁I)^(-½): reaches the RIR of a trained defense without training or harmful data (control)."""

    name = "whitening"
    control = True
    deterministic = True

    rho: float = Field(1e-3, gt=0, description="ridge, in units of the largest eigenvalue of K_P")

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Compute θ by one eigendecomposition."""
        values, vectors = torch.linalg.eigh(targets.benign.x.T @ targets.benign.x)
        scale = (values.clamp(min=0) + self.rho * values[-1]).rsqrt()
        with torch.no_grad():
            model.weight.copy_((vectors * scale) @ vectors.T)
        yield 0.0
