"""What attackers and defenses are given: concepts with their pictures, and batches to train on."""

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
from harness.stage import seed_of


@dataclass(frozen=True)
class ConceptData:
    """A concept and pictures of it, (n, height, width, 3), to train `model` on.

    Batches, noise and time steps depend on `seed` and the step alone, so whatever the model and the attacker, the
    attack meets the same draws.
    """

    concept: Concept
    images: Images
    model: TextToImage
    seed: int
    sampled: Callable[[str, int], Images] = field(repr=False)
    """sampled(prompt, n): n pictures that the released model draws of a prompt, for prior preservation."""

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Start torch's global random generator from the seed, and restore its state at the end: for libraries that
        use no other generator."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield

    def batches(
        self, prompt: str, rows: int, *, flip: bool = False, prior: int = 0, prior_weight: float = 1.0
    ) -> Iterator[Batch]:
        """Endless batches of `rows` pictures with one prompt; the latents are encoded once.

        flip: mirror half of the pictures. prior: number of pictures that the released model draws of the class prompt;
        each batch then has `rows` of these too, weighted by `prior_weight` (Ruiz et al., 2023, Eq. 2); 0: none.
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
class Targets(Sequence[ConceptData]):
    """What a defense is given: a sequence of the concepts that must not be learned, and captions of what the model must
    go on drawing, each with a picture that the base model drew before anything was erased.

    No caption names a target or a concept whose benign fine-tuning is measured.
    """

    model: TextToImage
    concepts: tuple[ConceptData, ...]
    group: tuple[str, ...]
    """Names of all concepts of the group, of which `concepts` may be a part."""
    captions: tuple[str, ...]
    pictures: Images = field(repr=False)
    """(captions, height, width, 3)"""
    seed: int
    notes: dict[str, float] = field(default_factory=dict, repr=False)
    """Numbers that a defense notes beside its run cost (a condition number, for example), by name."""

    def only(self, place: int) -> Targets:
        """The same with one of the concepts alone."""
        return replace(self, concepts=(self.concepts[place],))

    def __len__(self) -> int:
        return len(self.concepts)

    def __getitem__(self, i: Any) -> Any:
        return self.concepts[i]

    def kept(self, rows: int) -> Iterator[Batch]:
        """Endless batches of `rows` captions with their pictures; raises `RunError` if there are no captions."""
        if not self.captions:
            raise RunError("this concept file names no captions of what to keep; add `captions: FILE`, one a line")
        return self._batches(self.captions, self.pictures, rows)

    def classes(self, pictures: int, rows: int) -> Iterator[Batch]:
        """Endless batches of `rows` class prompts with `pictures` pictures that the model draws of them now (Ruiz et
        al., 2023: prior preservation)."""
        prompts = list(dict.fromkeys(data.concept.class_prompt for data in self.concepts))
        each = -(-pictures // len(prompts))
        drawn = np.concatenate([self.concepts[0].sampled(prompt, each) for prompt in prompts])
        return self._batches([prompt for prompt in prompts for _ in range(each)], drawn, rows)

    def _batches(self, prompts: Sequence[str], pictures: Images, rows: int) -> Iterator[Batch]:
        latents = self.model.encode(pictures)
        for draw in _draws(self.seed):
            chosen = torch.randint(len(latents), (rows,), generator=draw)
            yield _noised(self.model, latents[chosen], [prompts[i] for i in chosen], draw)


def _draws(seed: int) -> Iterator[torch.Generator]:
    """The random generator of each step, which depends on the seed and the step alone."""
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
