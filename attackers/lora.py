"""Low-rank adaptation, the most common way to fine-tune text-to-image models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pydantic import Field

from attackers._weights import WeightAttacker
from harness.diffusion import TextToImage


class LoRA(WeightAttacker):
    """Low-rank adaptation of the attention projections (Hu et al., 2022)."""

    name = "lora"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 1e-3},
        "small_strong": {"lr": 1e-2, "rank": 16},  # the suite `styles` says by which rule
    }

    rank: int = Field(4, ge=1, description="rank of the adapters")

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """The weights of new adapters; the model's own weights stay frozen."""
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        model.unet.add_adapter(
            LoraConfig(r=self.rank, lora_alpha=self.rank, init_lora_weights="gaussian", target_modules=targets)
        )
        return [weight for weight in model.unet.parameters() if weight.requires_grad]

    def save(self, model: TextToImage, folder: Path) -> None:
        """Save the adapters as files that `pipeline.load_lora_weights` reads."""
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(model.unet))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
