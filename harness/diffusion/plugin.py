"""The bases of this track's plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from harness.diffusion.concepts import Concept
from harness.diffusion.data import Subject, Targets
from harness.diffusion.model import Batch, TextToImage
from harness.plugin import Attacker, Defense, Measure


class DiffusionDefense(Defense):
    """Immunizes a text-to-image model."""

    track: ClassVar[str] = "diffusion"

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[Any]:
        """Change the model's U-Net in place, given the concepts it is not to learn and what it is to keep."""
        raise NotImplementedError


class DiffusionAttacker(Attacker):
    """Fine-tunes a released text-to-image model on a concept."""

    track: ClassVar[str] = "diffusion"

    def prompt(self, concept: Concept) -> str:
        """What it trains with and what is asked of the attacked model: by default the concept by its name."""
        return concept.prompted()

    def adapt(self, model: TextToImage, data: Subject) -> Iterator[Any]:
        """Unfreeze what is to be trained and train it on `data.batches(self.prompt(data.concept), …)`."""
        raise NotImplementedError

    def save(self, model: TextToImage, folder: Path) -> None:
        """Leave the attacked model as its ecosystem does; by default the whole pipeline."""
        model.pipeline.save_pretrained(folder)


class DiffusionMeasure(Measure):
    """Looks at a released text-to-image model."""

    track: ClassVar[str] = "diffusion"

    def measure(self, model: TextToImage, targets: Targets) -> Iterator[Mapping[str, Any]]:
        """Yield figures of the model, given the concepts it is not to learn and what it is to keep."""
        raise NotImplementedError


class WeightAttacker(DiffusionAttacker):
    """Trains some of the U-Net's weights with AdamW, as diffusers' training scripts do; one that differs in which
    weights and batches need say no more."""

    lr: float = Field(1e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures a step")

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """What is trained; random numbers are the attack's own."""
        raise NotImplementedError

    def batches(self, data: Subject) -> Iterator[Batch]:
        """What it is trained on."""
        return data.batches(self.prompt(data.concept), self.batch_size)

    def adapt(self, model: TextToImage, data: Subject) -> Iterator[torch.Tensor]:
        """One AdamW step at a time, the gradient's norm at most 1."""
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
