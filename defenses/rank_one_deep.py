"""A control in closed form for deep networks: the features are stretched along one direction."""

from pydantic import Field

from defenses._feature_map import FeatureMap
from defenses.rank_one import RankOne


class RankOneDeep(FeatureMap):
    """f → f·(I + g·vvᵀ), v the top eigenvector of K_H − c·K_P of the features; benign outputs are kept (control)."""

    name = "rank_one_deep"
    control = True

    gain: float = Field(10.0, gt=0, description="g: the direction is stretched by 1 + g")
    contrast: float = Field(5.0, ge=0, description="c, weight of the benign task's variance in the choice of v")

    def linear(self) -> RankOne:
        """The control of linear extractors."""
        return RankOne(gain=self.gain, contrast=self.contrast)
