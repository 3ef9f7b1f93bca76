"""The data that attackers and defenses receive: concepts with their pictures, and batches to train on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch

from harness.diffusion.concepts import Concept
from harness.diffusion.model import Batch, Images, TextToImage
from harness.errors import PluginError, RunError
from harness.stage import seed_of

_NO_CLASS = "prior preservation needs the class_prompt of {}: add it to the concept file"


@dataclass(frozen=True)
class ConceptData:
    """A concept, with pictures to train a model on.

    concept: the concept. images: pictures of it, (n, height, width, 3) uint8. model: the model to train. seed: seed of
    the draws; batches, noise and time steps depend on the seed and the step only, so the draws are the same for all
    models and attackers. class_pictures: pictures of the class prompt by the undefended model, (m, height, width, 3)
    uint8, for prior preservation; m is what the plugin's method `class_images` asks for. kept_pictures: pictures by the
    released model of things that an attacker may want to keep, (k, height, width, 3) uint8; k is what its method
    `kept_images` asks for. captions: their captions.
    """

    concept: Concept
    images: Images
    model: TextToImage
    seed: int
    class_pictures: Images = field(repr=False)
    kept_pictures: Images = field(default_factory=lambda: np.empty((0, 1, 1, 3), np.uint8), repr=False)
    captions: tuple[str, ...] = ()

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Seed torch's global random generator within the block and restore its state afterwards, for libraries that
        use only this generator."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield

    def batches(
        self, prompt: str, rows: int, *, flip: bool = False, prior: int = 0, prior_weight: float = 1.0
    ) -> Iterator[Batch]:
        """Yield batches of `rows` pictures with the same `prompt`, without end; the latents are encoded once.

        flip: mirror half of the pictures. prior: number of class pictures for prior preservation (Ruiz et al., 2023,
        Eq. 2), at most all; each batch then also has `rows` of these. 0: none. prior_weight: weight of their loss.
        Raises `RunError` for a prior of a concept without a class prompt, and `PluginError` if there are no class
        pictures to take.
        """
        if prior and not self.concept.class_prompt:
            raise RunError(_NO_CLASS.format(self.concept.name))
        pool = [self.model.encode(self.images)]
        if flip:
            pool.append(self.model.encode(self.images[:, :, ::-1]))
        latents = torch.stack(pool, 1)
        known = self.model.encode(self.first_class_pictures(prior)) if prior else None
        for draw in _draws(self.seed):
            chosen = torch.randint(len(latents), (rows,), generator=draw)
            mirrored = torch.randint(len(pool), (rows,), generator=draw)
            batch, prompts, weights = latents[chosen, mirrored], [prompt] * rows, None
            if known is not None:
                batch = torch.cat([batch, known[torch.randint(len(known), (rows,), generator=draw)]])
                prompts += [self.concept.class_prompt] * rows
                weights = torch.tensor([2.0] * rows + [2.0 * prior_weight] * rows)  # the mean of each half
            yield _noised(self.model, batch, prompts, draw, weights)

    def first_class_pictures(self, count: int) -> Images:
        """The first `count` class pictures, at most all; raises `PluginError` if there are none."""
        if not len(self.class_pictures):
            raise PluginError(
                f"the plugin reads pictures of the class of {self.concept.name} and asked for none: return their "
                "number from its method class_images"
            )
        return self.class_pictures[:count]

    def kept(self, rows: int) -> Iterator[Batch]:
        """Yield batches of `rows` kept pictures with their captions, without end; raises `PluginError` if there are
        none."""
        if not self.captions:
            raise PluginError(
                "the plugin reads kept pictures and asked for none: return their number from its method kept_images"
            )
        return _captioned(self.model, self.captions, self.kept_pictures, rows, seed_of("kept", self.seed))


@dataclass(frozen=True)
class Targets(Sequence[ConceptData]):
    """The data that a defense receives: a sequence of the concepts that the model must not learn, and captions of
    pictures that it must still draw.

    model: the model to immunize. concepts: the targets. group: names of all concepts of the group; `concepts` may be a
    part of them. captions: captions that name no target and no concept whose benign fine-tuning is measured. pictures:
    a picture of each caption, (captions, height, width, 3) uint8, drawn by the base model before anything was erased.
    seed: seed of the defense's draws. notes: numbers that the defense reports with its run cost, by name (a condition
    number, for example).
    """

    model: TextToImage
    concepts: tuple[ConceptData, ...]
    group: tuple[str, ...]
    captions: tuple[str, ...]
    pictures: Images = field(repr=False)
    seed: int
    notes: dict[str, float] = field(default_factory=dict, repr=False)

    def only(self, place: int) -> Targets:
        """The same data with one concept only, the one at index `place`."""
        return replace(self, concepts=(self.concepts[place],))

    def __len__(self) -> int:
        return len(self.concepts)

    def __getitem__(self, i: Any) -> Any:
        return self.concepts[i]

    def kept(self, rows: int) -> Iterator[Batch]:
        """Yield batches of `rows` captions with their pictures, without end; raises `RunError` if there are no
        captions."""
        if not self.captions:
            raise RunError(
                "no captions are left to retain; add `captions: FILE` to the concept file, with some that name no "
                "target, no benign and no held-out concept"
            )
        return _captioned(self.model, self.captions, self.pictures, rows, self.seed)

    def classes(self, pictures: int, rows: int) -> Iterator[Batch]:
        """Yield batches of the targets' class prompts for prior preservation (Ruiz et al., 2023), without end.

        pictures: number of class pictures of all class prompts together, at most all. rows: pictures of a batch. Raises
        `RunError` if a target has no class prompt, and `PluginError` if there are no class pictures to take.
        """
        for data in self.concepts:
            if not data.concept.class_prompt:
                raise RunError(_NO_CLASS.format(data.concept.name))
        by_prompt = {data.concept.class_prompt: data for data in self.concepts}
        each = -(-pictures // len(by_prompt))
        drawn = {prompt: data.first_class_pictures(each) for prompt, data in by_prompt.items()}
        prompts = [prompt for prompt, images in drawn.items() for _ in images]
        return _captioned(self.model, prompts, np.concatenate(list(drawn.values())), rows, self.seed)


def _captioned(model: TextToImage, prompts: Sequence[str], pictures: Images, rows: int, seed: int) -> Iterator[Batch]:
    """Yield batches of `rows` pictures, each with its own prompt, without end."""
    latents = model.encode(pictures)
    for draw in _draws(seed):
        chosen = torch.randint(len(latents), (rows,), generator=draw)
        yield _noised(model, latents[chosen], [prompts[i] for i in chosen], draw)


def _draws(seed: int) -> Iterator[torch.Generator]:
    """Yield the random generator of each step, which depends on the seed and the step only."""
    for step in count():
        yield torch.Generator().manual_seed(seed_of("batch", seed, step))


def _noised(
    model: TextToImage,
    latents: torch.Tensor,
    prompts: Sequence[str],
    draw: torch.Generator,
    weights: torch.Tensor | None = None,
) -> Batch:
    """A batch of latents (n, channels, height, width) with drawn noise and time steps."""
    noise = torch.randn(latents.shape, generator=draw)
    times = torch.randint(model.scheduler.config.num_train_timesteps, (len(latents),), generator=draw)
    return Batch(latents, prompts, noise, times, weights)
