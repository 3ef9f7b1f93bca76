"""An ablation that the condition-number paper does not have: only lower the benign condition number."""

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from defenses._regularisers import r_well


class RWell(ExtractorDescent):
    """Descent on R_well(H_P), the harmful task ignored (ablation of ICML 2025).

    It shows which part of the RIR of the condition-number defense needs no harmful data.
    """

    name = "r_well"
    presets = {"house_prices": {"epochs": 100, "lr": 5e-3, "task_loss": "squared"}}

    weight_task: float = Field(0.0, ge=0, description="weight of the benign task's loss")
    weight: float = Field(1.0, gt=0, description="weight of R_well(H_P); Adam is nearly invariant to it")
    p: int | None = Field(None, ge=1, description="dimension in R_well; null: the number of features")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """Weighted loss plus weighted R_well of the benign batch."""
        return self.weight_task * self.loss(benign, head) + self.weight * r_well(
            benign.gram, self.p or benign.features.shape[1]
        )
