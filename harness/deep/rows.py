"""Rows of a task, and the data that a defense receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from harness.errors import RunError


@dataclass(frozen=True)
class Rows:
    """Rows of a task. x: activations (rows, …), or features (rows, dim), float32. y: classes (rows), int64."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, places: torch.Tensor) -> Self:
        """The rows with the positions `places`, or where it is true."""
        return replace(self, x=self.x[places], y=self.y[places])

    def at(self, inputs: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The rows with `inputs(x)` in place of their `x`."""
        return replace(self, x=inputs(self.x))

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Self]:
        """Yield batches of `size` rows without end, in each epoch in a new random order from `generator`; a last batch
        that is smaller is left out. Raises `RunError` if there are fewer rows than `size`."""
        if len(self) < size:
            raise RunError(f"a batch has {size} rows, but the task has only {len(self)}")
        while True:
            for places in torch.randperm(len(self), generator=generator).split(size):
                if len(places) == size:
                    yield self.take(places)

    def split(self) -> tuple[Self, Self]:
        """Rows to fit on, and rows to validate on: every fifth row, from the fifth on."""
        validates = torch.arange(len(self)) % 5 == 4
        return self.take(~validates), self.take(validates)


@dataclass(frozen=True)
class DeepTargets:
    """The data that a defense receives; it never receives held-out rows.

    benign: training rows of the task to keep: activations and classes. harmful: training rows of the task to prevent.
    seed: seed of the defense's random draws. notes: numbers that the defense reports with its run cost, by name.
    """

    benign: Rows
    harmful: Rows
    seed: int = 0
    notes: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def generator(self) -> torch.Generator:
        """A random generator with the seed."""
        return torch.Generator().manual_seed(self.seed)
