"""The third baseline of the condition-number paper: descent on the condition numbers themselves."""

from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from harness.probe import condition_number


class OptKappa(ExtractorDescent):
    """Descent on log κ(H_P) − log κ(H_H) of the batch (ICML 2025, baseline "Opt κ").

    The released function for κ returns its logarithm, hence the default of `log`. A loss class in the released code,
    which nothing there uses, is benign loss + log κ(H_P) + λ₂/log κ(H_H) (preset `released`); no source gives the
    weights of its terms. With `policy: floor`, as in the released code, both condition numbers are σ₁/1e-6 and only the
    largest eigenvalues change; with `range` the smallest nonzero eigenvalue of the batch counts too.
    """

    name = "opt_kappa"
    presets = {
        "house_prices": {"epochs": 100, "lr": 5e-3, "task_loss": "squared"},
        "released": {"weight_task": 1.0, "reciprocal": True},
    }

    weight_task: float = Field(0.0, ge=0, description="weight of the benign task's loss")
    policy: Literal["floor", "range"] = Field("floor", description="κ policy of the condition numbers")
    floor: float = Field(1e-6, gt=0, description="floor under the κ policy floor")
    log: bool = Field(True, description="take logarithms; without them the larger κ dominates the objective")
    weight_harmful: float = Field(1.0, gt=0, description="λ₂, weight of the harmful κ's term")
    reciprocal: bool = Field(False, description="add the reciprocal of the harmful κ or logarithm, not its negative")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """Weighted benign loss, plus the benign condition number or its logarithm, minus the harmful one or plus its
        reciprocal."""
        floor = self.floor if self.policy == "floor" else None
        kappas = (condition_number(batch.gram, floor) for batch in (benign, harmful))
        kept, prevented = (kappa.log() if self.log else kappa for kappa in kappas)
        raised = 1 / prevented if self.reciprocal else -prevented
        return self.weight_task * self.loss(benign, head) + kept + self.weight_harmful * raised
