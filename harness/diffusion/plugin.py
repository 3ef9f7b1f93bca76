"""The bases of this track's plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from harness.diffusion.concepts import Concept
from harness.diffusion.data import Subject, Targets
from harness.diffusion.model import TextToImage
from harness.plugin import Attacker, Defense, Measure


class DiffusionDefense(Defense):
    """Immunizes a text-to-image model."""

    track: ClassVar[str] = "diffusion"

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[Any]:
        """Change the model's U-Net in place, given the concepts it is not to learn and what it is to keep."""
        raise NotImplementedError


class DiffusionAttacker(Attacker):
    """Fine-tunes a released text-to-image model on a concept.

    One that has a method `weights(model)`, which gives the parameters of the U-Net that it trains, is held to it by the
    conformance kit.
    """

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
