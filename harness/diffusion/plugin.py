"""Base classes of this track's plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

    @property
    def needs(self) -> Sequence[str]:
        """What the concept file must give for the targets, with the plugin's settings: `class_prompt`, `class_word` or
        `captions`. A suite whose concepts lack it is refused. By default nothing."""
        return ()

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[Any]:
        """Change the U-Net of `model` in place so that the concepts in `targets` are hard to learn. Yield the loss
        after every step, once for a closed form, and return at the end."""
        raise NotImplementedError

    def class_images(self) -> int:
        """Number of pictures of the targets' class prompts, all prompts together, that `immunize` reads by
        `targets.classes`; 0 by default. The undefended model draws them once for all defenses, attackers and seeds."""
        return 0


class DiffusionAttacker(Attacker):
    """Fine-tunes a released text-to-image model on a concept.

    An attacker may have a method `weights(model)` that prepares `model` and returns the parameters that it trains; then
    the conformance kit checks that nothing else changes.
    """

    track: ClassVar[str] = "diffusion"

    @property
    def needs(self) -> Sequence[str]:
        """What the concept file must give for each attacked concept, with the plugin's settings: `class_prompt`,
        `class_word` or `captions`. A suite whose concepts lack it is refused. By default nothing."""
        return ()

    def prompt(self, concept: Concept) -> str:
        """The prompt for training and for drawing pictures afterwards; by default that of `concept` with its own
        words."""
        return concept.prompted()

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[Any]:
        """Unfreeze weights of `model` and train them on `data.batches(self.prompt(data.concept), …)`. Yield the loss
        after every step, without end."""
        raise NotImplementedError

    def class_images(self, steps: int) -> int:
        """Number of pictures of the concept's class prompt that `adapt` reads within `steps` steps by the argument
        `prior` of `data.batches`; 0 by default. The undefended model draws them once for all defenses, attackers and
        seeds."""
        return 0

    def kept_images(self, steps: int) -> int:
        """Number of pictures of captions that `adapt` reads within `steps` steps by `data.kept`; 0 by default. The
        released model draws them, once for all attackers. The captions, in turn, are those that a defense retains,
        which name no target, no benign and no held-out concept."""
        return 0

    def save(self, model: TextToImage, folder: Path) -> None:
        """Save the attacked `model` into `folder`, in a format that diffusers loads; by default the whole pipeline."""
        model.pipeline.save_pretrained(folder)


class DiffusionMetric(Metric):
    """Measures a released text-to-image model."""

    track: ClassVar[str] = "diffusion"

    def measure(self, model: TextToImage, data: ReleasedData) -> Iterator[Value]:
        """Yield values (see `value`) of the released `model`. data: all that a defense receives, and pictures by the
        released and by the undefended model."""
        raise NotImplementedError


class AttackedMetric(Metric):
    """Measures the pictures of an attacked text-to-image model."""

    track: ClassVar[str] = "diffusion"
    measures: ClassVar[Literal["released", "attacked"]] = "attacked"
    compared: ClassVar[bool] = True
    """Whether `measure` reads the pictures by the attacked undefended model; where no metric of a grid does, the
    undefended model is not attacked for them."""

    def measure(self, model: AttackedPictures, data: Mapping[str, Encoder]) -> Iterator[Value]:
        """Yield values (see `value`). model: pictures by the attacked model at the measured steps, for attacks on all
        targets and benign concepts, and the same by the attacked undefended model. data: the encoders by name."""
        raise NotImplementedError

    def similarity_value(self, number: float | None, flaw: str | None, metric: str, **place: Any) -> Value:
        """Make a value computed from similarities.

        number: the number; None if its denominator is too small, so that the value is undefined. flaw: why the pictures
        cannot be compared; None if they can. metric: name of the quantity. place: further arguments of `value`.
        """
        if flaw is not None:
            return self.value(None, metric, note=flaw, **place)
        if number is None:
            return self.value(None, metric, flag="denominator", note=f"its denominator is below {LEAST}", **place)
        return self.value(number, metric, **place)
