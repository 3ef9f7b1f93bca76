"""The third baseline of the condition-number paper on deep networks: descent on the condition numbers themselves."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from defenses._tail import TailDescent, gram64
from harness.deep import Network
from harness.probe import condition_number


class OptKappaDeep(TailDescent):
    """Descent on benign loss + λ·(log κ(H_P) − log κ(H_H)) of the tail's features (ICML 2025, baseline "Opt κ").

    The released code has the loss class, task + λ₁·log κ_P + λ₂/log κ_H with the floor under κ, and no weights.
    """

    name = "opt_kappa_deep"

    weight: float = Field(30.0, gt=0, description="λ, weight of the difference of logarithms")
    policy: Literal["floor", "range"] = Field(
        "floor", description="κ policy: floor: σ₁/floor, as in the released code; range: over nonzero eigenvalues"
    )
    floor: float = Field(1e-6, gt=0, description="floor under the κ policy floor")

    def regularisers(
        self, model: Network, benign: torch.Tensor, harmful: torch.Tensor, y: torch.Tensor
    ) -> Sequence[tuple[str, float, torch.Tensor]]:
        """The difference of the logarithms of the two condition numbers."""
        floor = self.floor if self.policy == "floor" else None
        kept, prevented = (condition_number(gram64(features), floor).log() for features in (benign, harmful))
        return (("log κ", self.weight, kept - prevented),)
