"""Base classes of this track's plugins, and the data that its attackers and metrics receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from harness.deep.model import Network, Released
from harness.deep.rows import DeepTargets, Rows
from harness.metric import Metric, Value
from harness.plugin import Attacker, Defense

Role = Literal["benign", "harmful", "other"]
Part = Literal["head", "tail", "network"]
"""What an attacker trains: a new head alone, the tail too, or the trunk too."""


class DeepDefense(Defense):
    """Immunizes the tail of a network."""

    track: ClassVar[str] = "deep"

    def immunize(self, model: Released, targets: DeepTargets) -> Iterator[Any]:
        """Change `model` in place, given the training rows of both tasks in `targets`. Yield the loss after every step,
        once for a closed form, and return at the end, with `model` in inference mode."""
        raise NotImplementedError


@dataclass(frozen=True)
class AttackRows(Rows):
    """The data that an attacker receives; it never receives held-out rows.

    x: the inputs of the part that the attacker trains: features (rows, dim), activations (rows, …) or normalised
    pictures (rows, 3, size, size). y: classes (rows). validation: rows that the attacker may choose its settings by,
    and that the harness chooses the step by. classes: number of classes. seed: seed of the attacker's random draws.
    """

    validation: Rows
    classes: int
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A random generator with the seed."""
        return torch.Generator().manual_seed(self.seed)


class DeepAttacker(Attacker):
    """Fine-tunes a released network, or a part of it, on the harmful task."""

    track: ClassVar[str] = "deep"

    @property
    def part(self) -> Part:
        """The part that the attacker trains, which decides what it receives. A subclass that trains more than the head
        defines an attribute or a field of this name."""
        return "head"

    def adapt(self, model: Network, data: AttackRows) -> Iterator[Any]:
        """Train `model` in place. Yield the loss after every step, without end.

        model: its head (dim, classes) is zero at first. Its tail and map are the released ones for the parts `tail` and
        `network`, its trunk is the network's for `network`, all with gradients; else they are the identity. data: the
        attacker's rows of the harmful task.
        """
        raise NotImplementedError


class DeepMetric(Metric):
    """Measures a released network or, with `measures = "attacked"`, an attack on it."""

    track: ClassVar[str] = "deep"

    def measure(self, model: Any, data: Any) -> Iterator[Value]:
        """Yield values (see `value`).

        For a released model `model` is the `Released` network and `data` a `ReleasedFeatures`. For an attacked model
        `model` is the `Course` of an attack and `data` the same attack on the undefended model, an `UndefendedCourse`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FeatureSet:
    """The features of a data set. train, heldout: its training and its held-out rows. classes: number of classes."""

    train: Rows
    heldout: Rows
    classes: int


@dataclass(frozen=True)
class Inputs:
    """What features are computed from. undefended: the undefended model. rows: by role, activations and classes of the
    training rows."""

    undefended: Released
    rows: Mapping[Role, Rows]


@dataclass(frozen=True)
class ReleasedFeatures:
    """The data that a metric of a released model receives.

    released, undefended: by role, the features of the released and of the undefended model, after the linear map.
    inputs: loads what they are computed from, for a metric that needs more than features. seed: seed of the metric's
    random draws.
    """

    released: Mapping[Role, FeatureSet]
    undefended: Mapping[Role, FeatureSet]
    inputs: Callable[[], Inputs]
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A random generator with the seed."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Course:
    """The course of an attack on a released model.

    steps: the measured optimisation steps, ascending. predictions: (measured steps, held-out rows) int64, the predicted
    classes. labels: (held-out rows) int64. validation: (measured steps) float64, the accuracy on the attacker's
    validation rows. classes: number of classes.
    """

    steps: tuple[int, ...]
    predictions: torch.Tensor
    labels: torch.Tensor
    validation: torch.Tensor
    classes: int

    @property
    def accuracy(self) -> torch.Tensor:
        """The held-out accuracy (measured steps) float64 after each measured step."""
        return (self.predictions == self.labels).double().mean(1)

    @property
    def chosen(self) -> torch.Tensor:
        """The held-out accuracy (measured steps) of the step with the best validation accuracy so far, the last of
        equal ones."""
        best, accuracy, values = 0, self.accuracy, []
        for place in range(len(self.steps)):
            best = place if self.validation[place] >= self.validation[best] else best
            values.append(accuracy[best])
        return torch.stack(values)


@dataclass(frozen=True)
class UndefendedCourse:
    """The data that a metric of an attack receives. course: the same attack on the undefended model. seed: seed of the
    metric's random draws."""

    course: Course
    seed: int = 0
