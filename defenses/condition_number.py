"""The condition-number defense (ICML 2025), as in its paper and as in its released code."""

from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from defenses._regularisers import r_ill, r_well


class ConditionNumber(ExtractorDescent):
    """Descent on benign loss + λ_P·R_well(H_P) + λ_H·R_ill(H_H), preconditioned (ICML 2025).

    Algorithm 1 of the paper, with its dummy layer.

    The defaults are those of the released code for MNIST, which differs from the paper in three points. Its p and k are
    the images' width 28; in the paper they are the dimension 784 and the rank. It multiplies the gradient by K⁻¹ on the
    other side. Its σ_min is the 1e-6 that it adds to the diagonal. The paper's variant is `p: null, k: null, smallest:
    nonzero, preconditioner: paper`.
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
        "released", description="released: K⁻¹ ∇W, as in the released code; paper: ∇W K⁻¹; none"
    )
    weight_benign: float = Field(1.0, ge=0, description="λ_P, weight of R_well(H_P)")
    weight_harmful: float = Field(5e7, ge=0, description="λ_H, weight of R_ill(H_H)")
    p: int | None = Field(28, ge=1, description="dimension in R_well; null: the number of features")
    k: int | None = Field(28, ge=1, description="rank in R_ill; null: the batch's number of nonzero eigenvalues")
    smallest: Literal["floor", "nonzero"] = Field(
        "floor", description="σ_min in R_ill: the floor on the diagonal (released code), or the smallest nonzero one"
    )
    floor: float = Field(1e-6, ge=0, description="added to the Hessian's diagonal before its eigenvalues are taken")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """Benign loss + λ_P·R_well(H_P) + λ_H·R_ill(H_H)."""
        return self.kept(benign, head) + self.weight_harmful * self.ill(harmful)

    def kept(self, benign: Batch, head: torch.Tensor) -> torch.Tensor:
        """Benign loss + λ_P·R_well(H_P)."""
        well = r_well(benign.gram, self.p or benign.features.shape[1], self.floor)
        return self.loss(benign, head) + self.weight_benign * well

    def ill(self, harmful: Batch) -> torch.Tensor:
        """R_ill(H_H)."""
        return r_ill(harmful.gram, self.k, self.floor if self.smallest == "floor" else None)
