"""Base classes of this track's plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from harness.diffusion.concepts import Concept
from harness.diffusion.data import ConceptData, Targets
from harness.diffusion.encoders import Encoder
from harness.diffusion.model import Batch, TextToImage
from harness.diffusion.similarity import LEAST
from harness.diffusion.views import AttackedPictures, ReleasedData
from harness.metric import Metric, Value
from harness.plugin import Attacker, Defense


class DiffusionDefense(Defense):
    """Immunizes a text-to-image model."""

    track: ClassVar[str] = "diffusion"

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[Any]:
        """Change the model's U-Net in place, given the concepts that must not be learned and what to keep."""
        raise NotImplementedError


class DiffusionAttacker(Attacker):
    """Fine-tunes a released text-to-image model on a concept."""

    track: ClassVar[str] = "diffusion"

    def prompt(self, concept: Concept) -> str:
        """The prompt to train with and to draw with afterwards: by default the concept by its words."""
        return concept.prompted()

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[Any]:
        """Unfreeze weights and train them on `data.batches(self.prompt(data.concept), …)`."""
        raise NotImplementedError

    def save(self, model: TextToImage, folder: Path) -> None:
        """Save the attacked model in its ecosystem's format; by default the whole pipeline."""
        model.pipeline.save_pretrained(folder)


class DiffusionMetric(Metric):
    """Measures a released text-to-image model."""

    track: ClassVar[str] = "diffusion"

    def measure(self, model: TextToImage, data: ReleasedData) -> Iterator[Value]:
        """Yield values of the model, given what a defense is given and pictures by it and by the undefended model."""
        raise NotImplementedError


class AttackedMetric(Metric):
    """Measures the pictures of an attacked text-to-image model."""

    track: ClassVar[str] = "diffusion"
    measures: ClassVar[Literal["released", "attacked"]] = "attacked"

    def measure(self, model: AttackedPictures, data: Mapping[str, Encoder]) -> Iterator[Value]:
        """Yield values. model: the pictures of the attacks on all targets and benign concepts at the measured steps,
        beside those of the attacked undefended model. data: the encoders by name."""
        raise NotImplementedError

    def similarity_value(self, number: float | None, flaw: str | None, metric: str, **place: Any) -> Value:
        """A value made of similarities: undefined if pictures are not finite (`flaw` says which) or if its denominator
        is too small (`number` is None). place: further coordinates, as in `value`."""
        if flaw is not None:
            return self.value(None, metric, note=flaw, **place)
        if number is None:
            return self.value(None, metric, flag="denominator", note=f"its denominator is below {LEAST}", **place)
        return self.value(number, metric, **place)


class WeightAttacker(DiffusionAttacker):
    """Trains some of the U-Net's weights with AdamW, as diffusers' training scripts do; a subclass says which weights
    and, if need be, which batches."""

    lr: float = Field(1e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures a step")

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """The weights to train; random draws start from the attack's seed."""
        raise NotImplementedError

    def batches(self, data: ConceptData) -> Iterator[Batch]:
        """The batches to train on."""
        return data.batches(self.prompt(data.concept), self.batch_size)

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[torch.Tensor]:
        """One AdamW step at a time, the gradient's norm clipped to 1."""
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
