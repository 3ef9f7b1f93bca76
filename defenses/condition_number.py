"""The condition-number defense (ICML 2025), as its paper states it and as its code was released."""

from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from defenses._regularisers import r_ill, r_well
from harness.probe import losses


class ConditionNumber(ExtractorDescent):
    """Descent on benign loss + λ_P·R_well(H_P) + λ_H·R_ill(H_H), preconditioned (ICML 2025).

    Algorithm 1 of the paper, with its dummy layer.

    The defaults are the released code's for MNIST. It takes for p and k the images' width, 28, where the paper
    has the dimension 784 and the rank; it lets K⁻¹ act on the other side of the gradient; and its σ_min is the
    1e-6 it adds to the diagonal. `p: null, k: null, smallest: nonzero, preconditioner: paper` is the paper.
    """

    name = "condition_number"
    presets = {
        "house_prices": {
            "epochs": 100,
            "lr": 5e-3,
            "weight_benign": 100.0,
            "weight_harmful": 1e7,
            "ridge_harmful": 1.0,
            "p": 79,
            "k": 79,
            "task_loss": "squared",
        },
        "paper": {"preconditioner": "paper", "p": None, "k": None, "smallest": "nonzero", "lr": 5e-3},
    }

    preconditioner: Literal["released", "paper", "none"] = Field(
        "released", description="released: K⁻¹ ∇W, the code's side; paper: ∇W K⁻¹; none"
    )
    weight_benign: float = Field(1.0, ge=0, description="λ_P, on R_well(H_P)")
    weight_harmful: float = Field(5e7, ge=0, description="λ_H, on R_ill(H_H)")
    p: int | None = Field(28, ge=1, description="dimension in R_well; null: the number of features")
    k: int | None = Field(28, ge=1, description="rank in R_ill; null: the batch's number of nonzero eigenvalues")
    smallest: Literal["floor", "nonzero"] = Field(
        "floor", description="σ_min in R_ill: the 1e-6 on the diagonal (released), or the smallest nonzero one"
    )
    floor: float = Field(1e-6, ge=0, description="added to the Hessian's diagonal before its eigenvalues are taken")
    task_loss: Literal["logistic", "squared"] = Field("logistic", description="loss on the benign task")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """The sum of the three terms."""
        well = r_well(benign.gram, self.p or benign.features.shape[1], self.floor)
        ill = r_ill(harmful.gram, self.k, self.floor if self.smallest == "floor" else None)
        task = losses(benign.features @ head, benign.y, self.task_loss)
        return task + self.weight_benign * well + self.weight_harmful * ill
