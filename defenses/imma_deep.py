"""IMMA on deep networks, as in the released code of the condition-number paper or with unrolled steps."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from defenses._tail import TailDescent, adapted_head
from harness.deep import Network


class ImmaDeep(TailDescent):
    """Benign loss minus the harmful loss of a linear head (IMMA, ECCV 2024; ICML 2025, baseline "IMMA").

    The loss class in the released code of ICML 2025, which nothing there uses, has no inner problem: it takes the
    benign task's own head (`inner_steps: 0`). Preset `unrolled` has IMMA's: a head of zeros takes steps on the harmful
    batch, and the tail is differentiated through them.
    """

    name = "imma_deep"
    presets = {"unrolled": {"inner_steps": 5}}

    weight: float = Field(1.0, gt=0, description="weight of the ascended harmful loss")
    inner_steps: int = Field(
        0,
        ge=0,
        description="number of unrolled steps of a head, of length 1/L; 0: the benign head, in which a class beyond "
        "its number of classes counts modulo this number",
    )

    def regularisers(
        self, model: Network, benign: torch.Tensor, harmful: torch.Tensor, y: torch.Tensor
    ) -> Sequence[tuple[str, float, torch.Tensor]]:
        """The negative cross-entropy of the harmful batch."""
        if self.inner_steps:
            outputs = harmful @ adapted_head(harmful, y, self.inner_steps)
        else:
            outputs, y = model.head(harmful), y % model.head.out_features
        return (("harmful loss", self.weight, -nn.functional.cross_entropy(outputs, y)),)
