"""The defense plugin_name."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.diffusion import DiffusionDefense, Targets, TextToImage, WeightSet


class PluginName(DiffusionDefense):
    """Ascent on the loss of whichever concept has the lowest one now (a control).

    Replace it by your method and its source.
    """

    steps: int = Field(20, ge=1, description="steps of the ascent")
    lr: float = Field(3e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures of each concept a step")
    weights: WeightSet = Field("cross_attention", description="the weights that it changes")

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Change the model in place; yield the loss after every step, once for a closed form."""
        optimiser = torch.optim.AdamW(model.unfreeze(list(model.weights(self.weights).values())), lr=self.lr)
        batches = [data.batches(data.concept.prompted(), self.batch_size) for data in targets]
        retained = targets.kept(self.batch_size)
        try:
            for _ in range(self.steps):
                loss = torch.stack([model.denoising_loss(next(batch)) for batch in batches]).min()
                optimiser.zero_grad()
                (model.denoising_loss(next(retained)) - loss).backward()
                optimiser.step()
                yield loss.detach()
        finally:  # also if the harness stops it early
            model.freeze()
