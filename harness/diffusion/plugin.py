"""The two bases of this track's plugins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from harness.diffusion.concepts import Concept
from harness.diffusion.data import Subject
from harness.diffusion.model import TextToImage
from harness.plugin import Attacker, Defense


class DiffusionDefense(Defense):
    """Immunizes a text-to-image model."""

    track: ClassVar[str] = "diffusion"

    def immunize(self, model: TextToImage, targets: tuple[Subject, ...]) -> Iterator[Any]:
        """Change the model's U-Net in place, given the concepts it is not to learn."""
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
