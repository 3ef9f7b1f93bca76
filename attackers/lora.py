"""Low-rank adaptation, the most common way to fine-tune text-to-image models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pydantic import Field

from attackers._weights import WeightAttacker
from harness.diffusion import TextToImage

Targets = Literal["attention", "feed_forward", "convolutions"]
_ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
_FEED_FORWARD = [*_ATTENTION, "ff.net.0.proj", "ff.net.2"]
_LAYERS: Mapping[Targets, list[str]] = {
    "attention": _ATTENTION,
    "feed_forward": _FEED_FORWARD,
    "convolutions": [*_FEED_FORWARD, "conv1", "conv2", "conv_shortcut", "proj_in", "proj_out"],
}


class LoRA(WeightAttacker):
    """Low-rank adaptation, by default of the attention projections (Hu et al., 2022)."""

    name = "lora"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 1e-3},
        "small_medium": {"lr": 3e-3, "rank": 16},  # breaks the undefended model within 12 steps
        "small_strong": {"lr": 1e-2, "rank": 16},  # the suite `styles` says by which rule
    }

    lr: float = Field(
        1e-4,
        gt=0,
        description="AdamW's step size",
        json_schema_extra={"search": {"low": 1e-4, "high": 3e-2, "log": True}},
    )
    rank: int = Field(
        4, ge=1, description="rank of the adapters", json_schema_extra={"search": {"choices": [4, 16, 64]}}
    )
    targets: Targets = Field(
        "attention",
        description="layers with an adapter: attention: its projections; feed_forward: these and the feed-forward "
        "layers; convolutions: these and the convolutions of all blocks",
        json_schema_extra={"search": {"choices": ["attention", "feed_forward", "convolutions"]}},
    )

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """The weights of new adapters; the model's own weights stay frozen."""
        model.unet.add_adapter(
            LoraConfig(
                r=self.rank,
                lora_alpha=self.rank,
                init_lora_weights="gaussian",
                target_modules=list(_LAYERS[self.targets]),
            )
        )
        return [weight for weight in model.unet.parameters() if weight.requires_grad]

    def save(self, model: TextToImage, folder: Path) -> None:
        """Save the adapters as files that `pipeline.load_lora_weights` reads."""
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(model.unet))
