"""Plain gradient ascent, the control that every other defense must beat to mean anything."""

from collections.abc import Iterator

import torch

from harness.diffusion import AscentDefense, Batch, Targets, TextToImage


class Ascent(AscentDefense):
    """Gradient ascent on the targets' own loss: no thought of an attacker at all."""

    name = "ascent"

    def harms(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The concepts' mean loss."""
        for batches in self.batches(targets):
            yield model.denoising_loss(Batch.join(batches))
