"""The condition-number defense against a family of harmful tasks."""

from collections.abc import Sequence
from math import ceil
from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch
from defenses.condition_number import ConditionNumber
from harness.probe import ProbeTargets, Split


class ConditionNumberFamily(ConditionNumber):
    """Benign loss + λ_P·R_well(H_P) + λ_H·ρ(R_ill of each member), ρ the mean, the maximum or the CVaR (our extension).

    The objective of `condition_number` (ICML 2025) has one harmful Hessian; that defense pools the rows of a family.
    The pooled Hessian may be ill-conditioned while a member's is not, so here each member has a batch and an R_ill of
    its own. CVaR (Rockafellar and Uryasev, 2000) is the mean over the share of members with the largest values.
    """

    name = "condition_number_family"

    over: Literal["mean", "max", "cvar"] = Field("max", description="ρ, over the members of the family")
    share: float = Field(0.5, gt=0, le=1, description="share of the members that CVaR takes the mean of, rounded up")

    def members(self, targets: ProbeTargets) -> Sequence[Split]:
        """Each member of the family."""
        return targets.members

    def family_objective(self, benign: Batch, members: Sequence[Batch], head: torch.Tensor) -> torch.Tensor:
        """Benign loss + λ_P·R_well(H_P) + λ_H·ρ(R_ill)."""
        ills = torch.stack([self.ill(member) for member in members])
        count = {"mean": len(ills), "max": 1, "cvar": ceil(self.share * len(ills))}[self.over]
        return self.kept(benign, head) + self.weight_harmful * ills.topk(count).values.mean()
