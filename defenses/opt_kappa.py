"""The third baseline of the condition-number paper: descent on the condition numbers themselves."""

from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from harness.probe import condition_number


class OptKappa(ExtractorDescent):
    """Descent on log κ(H_P) − log κ(H_H) of the batch (ICML 2025, baseline "Opt κ").

    The authors released no code for it. Their released function for κ returns its logarithm, hence the default of
    `log`. With `policy: floor`, as in the released code, both condition numbers are σ₁/1e-6 and only the largest
    eigenvalues change; with `range` the smallest nonzero eigenvalue of the batch counts too.
    """

    name = "opt_kappa"
    presets = {"house_prices": {"epochs": 100, "lr": 5e-3}}

    policy: Literal["floor", "range"] = Field("floor", description="κ policy of the condition numbers")
    floor: float = Field(1e-6, gt=0, description="floor under the κ policy floor")
    log: bool = Field(True, description="take logarithms; without them the larger κ dominates the objective")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """The benign condition number minus the harmful one, or the difference of their logarithms."""
        floor = self.floor if self.policy == "floor" else None
        kept, prevented = (condition_number(batch.gram, floor) for batch in (benign, harmful))
        return kept.log() - prevented.log() if self.log else kept - prevented
