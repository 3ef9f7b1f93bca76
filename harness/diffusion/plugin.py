"""Base classes of this track's plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from harness.diffusion.concepts import Concept
from harness.diffusion.data import ConceptData, Targets
from harness.diffusion.encoders import Encoder
from harness.diffusion.model import TextToImage
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
    """Fine-tunes a released text-to-image model on a concept.

    One that has a method `weights(model)`, which gives the parameters of the U-Net that it trains, is held to it by the
    conformance kit.
    """

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
