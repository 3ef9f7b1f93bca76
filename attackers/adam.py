"""Adam, the most common optimiser for fine-tuning."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.probe import LinearProbe, ProbeAttacker, Split


class Adam(ProbeAttacker):
    """Adam on the linear probe, full-batch (Kingma & Ba, 2015)."""

    name = "adam"
    deterministic = True

    lr: float = Field(
        1e-2, gt=0, description="step size", json_schema_extra={"search": {"low": 1e-4, "high": 1.0, "log": True}}
    )

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Take Adam steps; yields the loss before each step."""
        optimiser = torch.optim.Adam(model.parameters(), lr=self.lr)
        while True:
            loss, model.weight.grad = model.gradient(data)
            optimiser.step()
            yield loss
