"""The condition-number defense of deep networks (ICML 2025), and its baselines with one of its two regularisers."""

from collections.abc import Sequence

import torch
from pydantic import Field

from defenses._regularisers import r_ill, r_well
from defenses._tail import TailDescent, gram64
from harness.deep import Network


class ConditionNumberDeep(TailDescent):
    """Descent on benign loss + λ_P·R_well(H_P) + λ_H·R_ill(H_H) of the tail's features (ICML 2025, Eq. 17).

    The defaults, p the smaller one of rows and features, nonzero eigenvalues and weights by balance, are this
    harness's. The released code has p = k = 224, a floor under the eigenvalues and the presets' weights; its step size
    is 1e-5 for all four, whatever its files say. The presets `r_ill` and `r_well` are the paper's baseline and its
    counterpart.
    """

    name = "condition_number_deep"
    presets = {
        "r_ill": {"weight_benign": 0.0},
        "r_well": {"weight_harmful": 0.0},
        **{
            name: {
                "weighting": "absolute",
                "statistics": "released",
                "lr": 1e-5,
                "p": 224,
                "k": 224,
                "floor": 1e-6,
                "weight_benign": benign,
                "weight_harmful": harmful,
                "steps": steps,
                "batch_size": batch,
            }
            for name, benign, harmful, steps, batch in (
                ("resnet18_cars", 5e-5, 2e6, 381, 64),
                ("resnet18_country211", 1e-4, 2e6, 1482, 64),
                ("vit_cars", 3e-6, 3e8, 254, 64),
                ("vit_country211", 1e-6, 1e8, 1978, 32),
            )
        },
    }

    weight_benign: float = Field(100.0, ge=0, description="weight of R_well(H_P); 0: left out")
    weight_harmful: float = Field(100.0, ge=0, description="weight of R_ill(H_H); 0: left out")
    p: int | None = Field(None, ge=1, description="dimension in R_well; null: the smaller one of rows and features")
    k: int | None = Field(None, ge=1, description="rank in R_ill; null: the batch's number of nonzero eigenvalues")
    floor: float | None = Field(
        None,
        gt=0,
        description="added to the largest eigenvalue in R_well, and σ_min in R_ill; null: 0, the smallest "
        "nonzero eigenvalue",
    )

    def regularisers(
        self, model: Network, benign: torch.Tensor, harmful: torch.Tensor, y: torch.Tensor
    ) -> Sequence[tuple[str, float, torch.Tensor]]:
        """R_well of the benign and R_ill of the harmful batch."""
        return (
            ("R_well", self.weight_benign, r_well(gram64(benign), self.p or min(benign.shape), self.floor or 0.0)),
            ("R_ill", self.weight_harmful, r_ill(gram64(harmful), self.k, self.floor)),
        )
