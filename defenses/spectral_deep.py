"""A control in closed form for deep networks: the features are stretched along random directions."""

from pydantic import Field

from defenses._feature_map import FeatureMap
from defenses.spectral import Spectral


class SpectralDeep(FeatureMap):
    """f → f·(I + (α − 1)·QQᵀ), Q random orthonormal columns; benign outputs are kept (data-free control).

    SpecDef (Rosati et al., 2026) with the head as the layer that undoes the stretching. Published factors up to 1e4
    would leave float32 too few digits of the benign outputs: their error grows as α, to about 1e-5 at 100.
    """

    name = "spectral_deep"
    control = True

    count: int = Field(25, ge=1, description="k, columns of Q: number of stretched directions, at most all")
    factor: float = Field(100.0, gt=0, description="α, by which they are stretched")

    def linear(self) -> Spectral:
        """The control of linear extractors."""
        return Spectral(count=self.count, factor=self.factor)
