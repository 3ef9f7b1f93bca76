"""The paper's third baseline: descend on the condition numbers themselves."""

from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from harness.probe import condition_number


class OptKappa(ExtractorDescent):
    """Descent on log κ(H_P) − log κ(H_H) of the batch (ICML 2025, baseline "Opt κ").

    Its code was not released; the κ that was returns the logarithm, hence the default. With `policy: floor`, as
    released, both condition numbers are σ₁/1e-6 and only the largest eigenvalues move; with `range` the smallest
    nonzero eigenvalue of the batch counts.
    """

    name = "opt_kappa"
    presets = {"house_prices": {"epochs": 100, "lr": 5e-3}}

    policy: Literal["floor", "range"] = Field("floor", description="which condition number is differentiated")
    floor: float = Field(1e-6, gt=0, description="the floor of that policy")
    log: bool = Field(True, description="take logarithms; without them the larger κ drowns the other")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """The difference of the two condition numbers."""
        floor = self.floor if self.policy == "floor" else None
        kept, prevented = (condition_number(batch.gram, floor) for batch in (benign, harmful))
        return kept.log() - prevented.log() if self.log else kept - prevented
