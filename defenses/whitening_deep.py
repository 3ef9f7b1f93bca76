"""A control in closed form for deep networks: the features are whitened with the benign task's covariance."""

from pydantic import Field

from defenses._feature_map import FeatureMap
from defenses.whitening import Whitening


class WhiteningDeep(FeatureMap):
    """f → f·(K_P + ρσ₁I)^(-½), K_P of the features on the benign task; benign outputs are kept (control)."""

    name = "whitening_deep"
    control = True

    rho: float = Field(1e-3, gt=0, description="ridge, in units of the largest eigenvalue of K_P")

    def linear(self) -> Whitening:
        """The control of linear extractors."""
        return Whitening(rho=self.rho)
