"""Plain gradient ascent, the control that every other defense must beat to mean anything."""

from collections.abc import Iterator
from typing import ClassVar

import torch

from harness.diffusion import AscentDefense, Batch, Targets, TextToImage, small_presets


class Ascent(AscentDefense):
    """Gradient ascent on the targets' own loss: no thought of an attacker at all."""

    name = "ascent"
    control = True
    presets: ClassVar = small_presets(styles=1e-3, objects=6e-4, personal=6e-4)

    def harms(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The concepts' mean loss."""
        for batches in self.batches(targets):
            yield model.denoising_loss(Batch.join(batches))
