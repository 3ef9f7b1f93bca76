"""Plain gradient ascent: the control that every other defense should beat."""

from collections.abc import Iterator

import torch

from defenses._ascent import SMALL, AscentDefense
from harness.diffusion import Batch, Targets, TextToImage


class Ascent(AscentDefense):
    """Gradient ascent on the loss of the targets, without a model of the attacker (control)."""

    name = "ascent"
    control = True
    presets = {
        "small": SMALL,
        "small_styles": {**SMALL, "lr": 6e-4},
        "small_objects": {**SMALL, "lr": 1e-3},
        "small_personal": {**SMALL, "lr": 6e-4},
    }

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield the mean loss of the concepts on a new batch."""
        for batches in self.batches(targets):
            yield model.denoising_loss(Batch.join(batches))
