"""What attackers and defenses are given: concepts with their pictures, and the batches to train on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch

from harness.diffusion.concepts import Concept
from harness.diffusion.model import Batch, Images, TextToImage
from harness.errors import RunError
from harness.plan import seed_of


@dataclass(frozen=True)
class Subject:
    """A concept and its pictures, as an attacker of `model` has them.

    Batches, noise and time steps depend on `seed` and the step alone, so whatever the model and the attacker, the
    attack meets the same draws.
    """

    concept: Concept
    images: Images
    model: TextToImage
    seed: int
    sampled: Callable[[str, int], Images] = field(repr=False)
    """The released model's own pictures of a prompt, for prior preservation."""

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """For what knows no other random numbers than torch's global ones: these are begun from the seed, and
        afterwards as they were."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield

    def batches(
        self, prompt: str, rows: int, *, flip: bool = False, prior: int = 0, prior_weight: float = 1.0
    ) -> Iterator[Batch]:
        """Endless batches of `rows` pictures with one prompt; the latents are encoded once.

        flip: half of the pictures mirrored. prior: so many pictures that the released model makes of the class
        prompt; each batch then has `rows` of them too, weighted (Ruiz et al., 2023, Eq. 2).
        """
        pool = [self.model.encode(self.images)]
        if flip:
            pool.append(self.model.encode(self.images[:, :, ::-1]))
        latents = torch.stack(pool, 1)
        known = self.model.encode(self.sampled(self.concept.class_prompt, prior)) if prior else None
        for draw in _draws(self.seed):
            chosen = torch.randint(len(latents), (rows,), generator=draw)
            mirrored = torch.randint(len(pool), (rows,), generator=draw)
            batch, prompts, weights = latents[chosen, mirrored], [prompt] * rows, None
            if known is not None:
                batch = torch.cat([batch, known[torch.randint(len(known), (rows,), generator=draw)]])
                prompts += [self.concept.class_prompt] * rows
                weights = torch.tensor([2.0] * rows + [2.0 * prior_weight] * rows)  # the mean of each half
            yield _noised(self.model, batch, prompts, draw, weights)


@dataclass(frozen=True)
class Targets(Sequence[Subject]):
    """What a defense is given: the concepts that are not to be learned, as a sequence of subjects, and captions of
    what the model must go on drawing, with a picture that the base made of each before anything was erased.

    No caption speaks of a target, nor of the concepts whose benign fine-tuning is measured.
    """

    model: TextToImage
    subjects: tuple[Subject, ...]
    group: tuple[str, ...]
    """The names of all concepts of the group, of which `subjects` may be some."""
    captions: tuple[str, ...]
    pictures: Images = field(repr=False)
    seed: int
    notes: dict[str, float] = field(default_factory=dict, repr=False)
    """Figures that a defense wants beside its cost (a condition number, say), by what they are: its own to fill."""

    def only(self, place: int) -> Targets:
        """One of the concepts alone."""
        return replace(self, subjects=(self.subjects[place],))

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, i: Any) -> Any:
        return self.subjects[i]

    def kept(self, rows: int) -> Iterator[Batch]:
        """Endless batches of `rows` captions with their pictures."""
        if not self.captions:
            raise RunError("this concept file names no captions of what to keep; add `captions: FILE`, one a line")
        return self._batches(self.captions, self.pictures, rows)

    def classes(self, pictures: int, rows: int) -> Iterator[Batch]:
        """Endless batches of `rows` class prompts with `pictures` pictures that the model makes of them now (Ruiz et
        al., 2023: prior preservation)."""
        prompts = list(dict.fromkeys(subject.concept.class_prompt for subject in self.subjects))
        each = -(-pictures // len(prompts))
        made = np.concatenate([self.subjects[0].sampled(prompt, each) for prompt in prompts])
        return self._batches([prompt for prompt in prompts for _ in range(each)], made, rows)

    def _batches(self, prompts: Sequence[str], pictures: Images, rows: int) -> Iterator[Batch]:
        latents = self.model.encode(pictures)
        for draw in _draws(self.seed):
            chosen = torch.randint(len(latents), (rows,), generator=draw)
            yield _noised(self.model, latents[chosen], [prompts[i] for i in chosen], draw)


def _draws(seed: int) -> Iterator[torch.Generator]:
    """The random numbers of each step: of the seed and the step alone."""
    for step in count():
        yield torch.Generator().manual_seed(seed_of("batch", seed, step))


def _noised(
    model: TextToImage,
    latents: torch.Tensor,
    prompts: Sequence[str],
    draw: torch.Generator,
    weights: torch.Tensor | None = None,
) -> Batch:
    noise = torch.randn(latents.shape, generator=draw)
    times = torch.randint(model.scheduler.config.num_train_timesteps, (len(latents),), generator=draw)
    return Batch(latents, prompts, noise, times, weights)
