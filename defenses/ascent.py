"""Plain gradient ascent, the control that every other defense must beat to mean anything."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from harness.diffusion import SMALL, AscentDefense, Batch, Targets, TextToImage


class Ascent(AscentDefense):
    """Gradient ascent on the targets' own loss: no thought of an attacker at all."""

    name = "ascent"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": SMALL}

    def harms(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The concepts' mean loss."""
        for batches in self.batches(targets):
            yield model.denoising_loss(Batch.join(batches))
