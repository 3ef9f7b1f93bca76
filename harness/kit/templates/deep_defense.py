"""The defense plugin_name."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.deep import DeepDefense, DeepTargets, Released


class PluginName(DeepDefense):
    """Descent on the benign loss minus a share of the harmful loss (a control).

    Replace it by your method and its source.
    """

    steps: int = Field(20, ge=1, description="number of steps")
    lr: float = Field(1e-3, gt=0, description="step size")
    share: float = Field(0.1, ge=0, description="weight of the harmful loss")

    def immunize(self, model: Released, targets: DeepTargets) -> Iterator[torch.Tensor]:
        """Change the model in place; yield the loss at every step, once for a closed form."""
        optimiser = torch.optim.SGD(model.parameters(), lr=self.lr)
        draw = targets.generator()
        for _ in range(self.steps):
            benign, harmful = (
                task.take(torch.randperm(len(task), generator=draw)[:64]) for task in (targets.benign, targets.harmful)
            )
            loss = model.loss(benign) - self.share * model.loss(harmful)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield loss.detach()
        optimiser.zero_grad()
