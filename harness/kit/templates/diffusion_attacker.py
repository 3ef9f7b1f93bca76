"""The attacker plugin_name."""

import torch

from harness import Field
from harness.diffusion import TextToImage, WeightAttacker


class PluginName(WeightAttacker):
    """Fine-tuning of the cross-attention alone (Kumari et al., 2023).

    Replace it by your method and its source.
    """

    lr: float = Field(3e-4, gt=0, description="AdamW's step size")

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """The weights to train; override `adapt` to train in another way."""
        return list(model.weights("cross_attention").values())
