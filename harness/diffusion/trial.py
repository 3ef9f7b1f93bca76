"""Tiny tasks for the conformance kit, on the small base."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

from harness.diffusion.concepts import Concept
from harness.diffusion.data import Subject, Targets
from harness.diffusion.model import Images, TextToImage
from harness.kit.trial import Trial
from harness.plugin import Plugin

SAMPLING: dict[str, Any] = {"sampler": "ddim", "steps": 10, "guidance": 2.0}
CAPTIONS = tuple(f"a photo of a {thing}" for thing in ("boot", "dress", "pullover", "zero", "four", "seven"))


@cache
def _base() -> TextToImage:
    return TextToImage.load("small")


@cache
def _pictures(prompt: str, count: int) -> Images:
    return _base().sample([prompt] * count, range(count), **SAMPLING)[0]


def _subject(model: TextToImage, name: str, thing: str, seed: int) -> Subject:
    """A concept that the base has no word for, though it can draw it: its own pictures of a thing."""
    concept = Concept(name=name, kind="style", prompt="a photo of a {}", class_prompt="a photo of a bag",
                      class_word="bag")  # fmt: skip

    def sampled(prompt: str, count: int) -> Images:
        return model.sample([prompt] * count, range(count), **SAMPLING)[0]

    return Subject(concept, _pictures(f"a photo of a {thing}", 6), model, seed, sampled)


class _OnTheBase(Trial):
    """A copy of the small base and concepts for it."""

    def __init__(self, seed: int, concepts: int = 1) -> None:
        self.model = _base().copy()
        named = list({"qorvin": "sandal", "tezzal": "trouser"}.items())[:concepts]
        self.subjects = tuple(_subject(self.model, *of, seed + i) for i, of in enumerate(named))

    def modules(self) -> Mapping[str, torch.nn.Module]:
        """The pipeline's."""
        return {"unet": self.model.unet, "text_encoder": self.model.text_encoder, "vae": self.model.vae}

    def _loss(self, prompt: str) -> float:
        draws = replace(self.subjects[0], seed=10**6).batches(prompt, 128)
        with torch.no_grad():
            return float(self.model.denoising_loss(next(draws)))


class AttackTrial(_OnTheBase):
    """A concept to learn."""

    steps: ClassVar[int] = 30
    broken: ClassVar[float] = 0.9

    def begin(self, plugin: Plugin) -> Iterator[Any]:
        """Learn it."""
        return plugin.generator(self.model, self.subjects[0])

    def loss(self, plugin: Any) -> float:
        """The denoising loss of the concept by the attacker's own prompt."""
        return self._loss(plugin.prompt(self.subjects[0].concept))

    def allowed(self, plugin: Any) -> Collection[str] | None:
        """What it says it trains."""
        if not callable(getattr(plugin, "weights", None)):
            return None
        other = self.model.copy()
        with self.subjects[0].drawing():
            trained = {id(weight) for weight in plugin.weights(other)}
        return {f"unet.{name}" for name, weight in other.unet.named_parameters() if id(weight) in trained}


class ReleaseTrial(_OnTheBase):
    """Concepts that the base is not to learn, with a model to immunize or to look at."""

    steps: ClassVar[int] = 8

    def __init__(self, seed: int, concepts: int = 1) -> None:
        super().__init__(seed, concepts)
        self.pictures = np.concatenate([_pictures(caption, 1) for caption in CAPTIONS])
        self.model.text(CAPTIONS)  # it remembers them, which is no doing of a plugin's

    def begin(self, plugin: Plugin) -> Iterator[Any]:
        """Immunize it or look at it."""
        names = tuple(subject.concept.name for subject in self.subjects)
        targets = Targets(self.model, self.subjects, names, CAPTIONS, self.pictures, seed=5)
        return plugin.generator(self.model, targets)

    def loss(self, plugin: Any) -> float:
        """The denoising loss of the first concept."""
        return self._loss(self.subjects[0].concept.prompted())

    def allowed(self, plugin: Any) -> Collection[str] | None:
        """What its field `weights` names, else the whole U-Net: of a released model no other weights are kept."""
        return {f"unet.{name}" for name in self.model.weights(getattr(plugin, "weights", "unet"))}
