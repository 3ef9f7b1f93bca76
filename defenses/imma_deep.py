"""IMMA on deep networks, as in the released code of the condition-number paper."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from defenses._tail import TailDescent
from harness.deep import Network


class ImmaDeep(TailDescent):
    """Benign loss minus the harmful loss of the same head, without an inner problem (ICML 2025, baseline "IMMA").

    The loss class in the released code, which nothing there uses, has this form; IMMA itself (ECCV 2024) unrolls the
    attacker's steps. A harmful class beyond the head's number of classes counts modulo this number.
    """

    name = "imma_deep"

    weight: float = Field(1.0, gt=0, description="weight of the ascended harmful loss")

    def regularisers(
        self, model: Network, benign: torch.Tensor, harmful: torch.Tensor, y: torch.Tensor
    ) -> Sequence[tuple[str, float, torch.Tensor]]:
        """The negative cross-entropy of the harmful batch."""
        outputs = model.head(harmful)
        return (("harmful loss", self.weight, -nn.functional.cross_entropy(outputs, y % outputs.shape[1])),)
