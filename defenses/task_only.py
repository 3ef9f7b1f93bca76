"""A control: further training on the benign task alone, which all trained defenses of deep networks contain."""

from collections.abc import Sequence

import torch

from defenses._tail import TailDescent
from harness.deep import Network


class TaskOnly(TailDescent):
    """Descent on the benign task's loss alone, with the optimiser and the steps of the trained defenses (control)."""

    name = "task_only"
    control = True

    def regularisers(
        self, model: Network, benign: torch.Tensor, harmful: torch.Tensor, y: torch.Tensor
    ) -> Sequence[tuple[str, float, torch.Tensor]]:
        """None."""
        return ()
