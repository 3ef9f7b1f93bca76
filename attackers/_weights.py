"""Trains some of the U-Net's weights with AdamW: the common part of LoRA and DreamBooth."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.diffusion import Batch, ConceptData, DiffusionAttacker, TextToImage


class WeightAttacker(DiffusionAttacker):
    """Trains some of the U-Net's weights with AdamW, as diffusers' training scripts do.

    A subclass defines the weights and may redefine the batches.
    """

    lr: float = Field(1e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures in a step")

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """The parameters of `model` to train. Random numbers drawn here come from the attack's seed."""
        raise NotImplementedError

    def batches(self, data: ConceptData) -> Iterator[Batch]:
        """Yield batches of the concept in `data` to train on, without end."""
        return data.batches(self.prompt(data.concept), self.batch_size)

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[torch.Tensor]:
        """Take AdamW steps with the gradient's norm clipped to 1; yields the loss before each step."""
        with data.drawing():
            weights = model.unfreeze(self.weights(model))
        optimiser = torch.optim.AdamW(weights, lr=self.lr, fused=True)
        for batch in self.batches(data):
            optimiser.zero_grad()
            loss = model.denoising_loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            yield loss.detach()
