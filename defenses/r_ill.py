"""The first baseline of the condition-number paper: only raise the harmful condition number."""

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from defenses._regularisers import r_ill


class RIll(ExtractorDescent):
    """Descent on R_ill(H_H) (ICML 2025, baseline "R_ill only").

    A loss class "max only" in the released code, which nothing there uses, adds the benign task's loss: preset
    `released`.
    """

    name = "r_ill"
    presets = {"house_prices": {"epochs": 100, "lr": 5e-3, "task_loss": "squared"}, "released": {"weight_task": 1.0}}

    weight_task: float = Field(0.0, ge=0, description="weight of the benign task's loss")
    weight: float = Field(5e7, gt=0, description="weight of R_ill(H_H); Adam is nearly invariant to it")
    k: int | None = Field(None, ge=1, description="rank in R_ill; null: the batch's number of nonzero eigenvalues")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """Weighted benign loss plus weighted R_ill of the harmful batch."""
        return self.weight_task * self.loss(benign, head) + self.weight * r_ill(harmful.gram, self.k)
