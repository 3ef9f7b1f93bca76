"""The attacker plugin_name."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.probe import LinearProbe, ProbeAttacker, Split


class PluginName(ProbeAttacker):
    """Gradient descent with momentum (Polyak, 1964).

    Replace it by your method and its source.
    """

    deterministic = True  # draws no random numbers

    rate: float = Field(1.0, gt=0, lt=2, description="step size, in units of one over the loss's largest curvature")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that is kept")

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """One step at a time, without end: the harness counts, measures and stops."""
        lr = self.rate / model.smoothness(data)
        optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=self.momentum)
        while True:
            loss, model.weight.grad = model.gradient(data)
            optimiser.step()
            yield loss
