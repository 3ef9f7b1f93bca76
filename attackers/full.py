"""Full fine-tuning: trains the whole U-Net and the text encoder."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from attackers.dreambooth import DreamBooth
from harness.diffusion import TextToImage


class FullFineTuning(DreamBooth):
    """DreamBooth that also trains the text encoder, as diffusers' script does on request (Ruiz et al., 2023)."""

    name = "full"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"lr": 3e-4, "batch_size": 4}}

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """All parameters of the U-Net and of the text encoders."""
        encoders = model.text_encoders.values()
        return [*super().weights(model), *(weight for encoder in encoders for weight in encoder.parameters())]
