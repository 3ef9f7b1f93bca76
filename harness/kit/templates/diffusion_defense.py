"""The defense plugin_name."""

from collections.abc import Iterator
from typing import Literal

import torch

from harness import Field
from harness.diffusion import AscentDefense, Targets, TextToImage


class PluginName(AscentDefense):
    """Ascent on the loss of whichever concept has the lowest one now (a control).

    Replace it by your method and its source.
    """

    steps: int = Field(20, ge=1, description="largest number of steps")
    lr: float = Field(3e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures of each concept a step")
    prior: Literal["class", "captions", "none"] = Field("captions", description="pictures to preserve")

    def harms(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The losses to ascend, step by step, without end; override `immunize` to immunize in another way."""
        for batches in self.batches(targets):
            yield torch.stack([model.denoising_loss(batch) for batch in batches]).min()
