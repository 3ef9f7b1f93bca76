"""A control in closed form: inflates singular values of the extractor along random directions."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.probe import Extractor, ProbeDefense, ProbeTargets


class Spectral(ProbeDefense):
    """Multiplies k singular values of θ by α: SpecDef (Rosati et al., 2026) on a linear extractor (data-free control).

    SpecDef inflates the top singular values of a layer W = UΣVᵀ, W̃ = UΣ̃Vᵀ, and adds a layer C = UΣΣ̃⁻¹Uᵀ, so that
    C W̃ = W and outputs stay the same. A linear probe is trained anew on the features, so C would be a part of it, and
    what is left for a linear extractor is another θ. The singular values of the base model, θ = I, are all 1, so any k
    directions are the top ones: here they are random. No data are read. `undo` and `whitened_descent` invert it.
    """

    name = "spectral"
    control = True

    count: int = Field(25, ge=1, description="k: number of inflated singular values, at most all")
    factor: float = Field(1e4, gt=0, description="α, by which they are multiplied")

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Draw the directions with the seed of `targets` and stretch them."""
        width = model.out_features
        drawn = torch.randn(width, min(self.count, width), dtype=torch.float64, generator=targets.generator())
        directions = torch.linalg.qr(drawn).Q
        with torch.no_grad():
            model.weight.add_((self.factor - 1) * directions @ directions.T)
        yield 0.0
