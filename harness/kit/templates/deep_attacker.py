"""The attacker plugin_name."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.deep import AttackRows, DeepAttacker, Network


class PluginName(DeepAttacker):
    """Gradient descent with momentum on a new head (Polyak, 1964).

    Replace it by your method and its source.
    """

    part = "head"  # "tail": it receives activations and trains the tail too; "network": pictures, and the trunk too

    lr: float = Field(1.0, gt=0, description="step size")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that is kept")

    def adapt(self, model: Network, data: AttackRows) -> Iterator[torch.Tensor]:
        """One step at a time, without end: the harness counts, measures and stops."""
        optimiser = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum)
        while True:
            optimiser.zero_grad()
            loss = model.loss(data)
            loss.backward()
            optimiser.step()
            yield loss.detach()
