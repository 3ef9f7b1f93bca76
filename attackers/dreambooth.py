"""DreamBooth, which trains the whole U-Net."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from harness.diffusion import Concept, DiffusionAttacker, Subject, TextToImage


class DreamBooth(DiffusionAttacker):
    """DreamBooth: the whole U-Net on a few pictures and a rare word (Ruiz et al., 2023)."""

    name = "dreambooth"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"lr": 3e-4, "batch_size": 4}}

    lr: float = Field(5e-6, gt=0, description="AdamW's step size")
    batch_size: int = Field(1, ge=1, description="pictures a step")
    token: str = Field("sks", description="the rare word for a persona")
    prior: int = Field(0, ge=0, description="pictures of the class to hold on to; 0 is none")
    prior_weight: float = Field(1.0, ge=0, description="weight of the class's loss")

    def prompt(self, concept: Concept) -> str:
        """A persona by the rare word, any other concept by its name."""
        return concept.prompted(f"{self.token} {concept.class_word}" if concept.kind == "persona" else None)

    def adapt(self, model: TextToImage, data: Subject) -> Iterator[torch.Tensor]:
        """One AdamW step on all the U-Net's weights at a time."""
        weights = model.unfreeze(list(model.unet.parameters()))
        optimiser = torch.optim.AdamW(weights, lr=self.lr)
        prompt = self.prompt(data.concept)
        for batch in data.batches(prompt, self.batch_size, prior=self.prior, prior_weight=self.prior_weight):
            optimiser.zero_grad()
            loss = model.denoising_loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            yield loss.detach()
