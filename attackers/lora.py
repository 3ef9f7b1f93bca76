"""Low-rank adaptation, what most people fine-tune text-to-image models with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pydantic import Field

from harness.diffusion import DiffusionAttacker, Subject, TextToImage


class LoRA(DiffusionAttacker):
    """Low-rank adaptation of the attention projections (Hu et al., 2022)."""

    name = "lora"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"lr": 1e-3}}

    rank: int = Field(4, ge=1, description="of the adapters")
    lr: float = Field(1e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures a step")

    def adapt(self, model: TextToImage, data: Subject) -> Iterator[torch.Tensor]:
        """One AdamW step on the adapters at a time; the base's weights stay."""
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        model.unet.add_adapter(
            LoraConfig(r=self.rank, lora_alpha=self.rank, init_lora_weights="gaussian", target_modules=targets)
        )
        adapters = [weight for weight in model.unet.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(model.unfreeze(adapters), lr=self.lr)
        for batch in self.batches(data):
            optimiser.zero_grad()
            loss = model.denoising_loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(adapters, 1.0)
            optimiser.step()
            yield loss.detach()

    def batches(self, data: Subject) -> Iterator[Any]:
        """What it trains on."""
        return data.batches(self.prompt(data.concept), self.batch_size)

    def save(self, model: TextToImage, folder: Path) -> None:
        """The adapters, for `pipeline.load_lora_weights`."""
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(model.unet))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
