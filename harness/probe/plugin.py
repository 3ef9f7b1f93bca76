"""Base classes of this track's plugins, and the data that its metrics receive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import Field

from harness.metric import Metric, Value
from harness.plugin import Attacker, Defense
from harness.probe.data import BenignTask, ProbeTargets, Score, Split
from harness.probe.model import Extractor, LinearProbe, Loss
from harness.probe.optimum import Optimum
from harness.probe.tasks import Role


class ProbeDefense(Defense):
    """Immunizes a feature extractor."""

    track: ClassVar[str] = "probe"

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[Any]:
        """Change the extractor `model` in place, given the training rows of both tasks in `targets`. Yield the loss
        after every step, once for a closed form, and return at the end."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrainingRows(Split):
    """The data that an attacker receives: the training rows of a task; it never receives held-out rows.

    x: features (rows, dim), float64. y: targets (rows). seed: seed of the attacker's random draws. extractor: the
    released extractor, for an attacker that `knows_weights`; None for others.
    """

    seed: int = 0
    extractor: Extractor | None = None

    def generator(self) -> torch.Generator:
        """A random generator with the seed."""
        return torch.Generator().manual_seed(self.seed)

    def split(self) -> tuple[TrainingRows, TrainingRows]:
        """Rows to fit a probe on, and rows to validate it on: every fifth row, from the fifth on."""
        validates = torch.arange(len(self)) % 5 == 4
        fit, validation = (replace(self, x=self.x[rows], y=self.y[rows]) for rows in (~validates, validates))
        return fit, validation


class ProbeAttacker(Attacker):
    """Trains a linear probe on the frozen features of a released extractor.

    With `intercept` or `standardise`, `adapt` receives changed features: each divided by its standard deviation over
    the training rows, less its mean if the probe has an intercept, and a last feature of ones, whose weight is the
    intercept. `generator` maps the trained head back to the released features.
    """

    track: ClassVar[str] = "probe"
    knows_weights: ClassVar[bool] = False
    """The attacker receives the released extractor, not only its features."""

    standardise: bool = Field(
        False,
        description="divide each feature by its standard deviation over the training rows, with an intercept after "
        "subtracting its mean; a constant feature stays",
    )
    intercept: bool = Field(False, description="train an intercept too, as the weight of a feature of ones")

    def adapt(self, model: LinearProbe, data: TrainingRows) -> Iterator[Any]:
        """Train the weight of the probe `model` in place. Yield the loss after every step, without end.

        data: the task's training rows; `data.x` are features (rows, dim), float64.
        """
        raise NotImplementedError

    def generator(self, model: LinearProbe, data: TrainingRows) -> Iterator[Any]:
        """Start `adapt` on the features that the fields ask for; after each step `model` is the trained probe on the
        features of `data`. model: a probe of zeros. data: the task's training rows."""
        return self._scaled(model, data) if self.standardise or self.intercept else self.adapt(model, data)

    def _scaled(self, model: LinearProbe, data: TrainingRows) -> Iterator[Any]:
        scale = torch.ones_like(data.x[0])
        if self.standardise:
            spread = data.x.std(0, correction=0)
            scale = torch.where(spread > 1e-9 * spread.max(), spread, scale)
        shift = data.x.mean(0) * (self.standardise and self.intercept)
        x = (data.x - shift) / scale
        if self.intercept:
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        probe = LinearProbe(x.shape[1], model.kind)
        for loss in self.adapt(probe, replace(data, x=x)):
            with torch.no_grad():
                weight = probe.weight[: len(scale)] / scale
                model.weight.copy_(weight)
                model.bias.copy_(probe.weight[len(scale) :].sum() - shift @ weight)
            yield loss


class ProbeMetric(Metric):
    """Measures a released extractor or, with `measures = "attacked"`, an attack on it."""

    track: ClassVar[str] = "probe"

    def measure(self, model: Any, data: Any) -> Iterator[Value]:
        """Yield values (see `value`).

        For a released model `model` is the `Extractor` and `data` a `ReleasedData`. For an attacked model `model` is
        the `Trajectory` of an attack and `data` an `AttackData`; one call measures the attack on one task, harmful or
        benign, and the engine adds the role to the values.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ReleasedData(ProbeTargets):
    """The data that a metric of a released extractor receives: all that a defense receives (`ProbeTargets`), and

    heldout: the held-out rows of both tasks. score: score on held-out rows; None where their targets are constant.
    further: by name, benign tasks that no defense receives. loss: loss of the probe. optima: by role, the optimum on
    the features of the released extractor. undefended: by role, the optimum on the features of the undefended
    extractor.
    """

    heldout: ProbeTargets
    score: Score | None
    further: Mapping[str, BenignTask]
    loss: Loss
    optima: Mapping[Role, Optimum]
    undefended: Mapping[Role, Optimum]


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The course of an attack on one task of a released extractor.

    steps: the measured optimisation steps, ascending. heads: (dim, measured steps) float64, the probe's weight after
    each of these steps. biases: (measured steps) float64, its intercept; zeros for an attacker without one. validation:
    (measured steps) float64, the score by which the attacker chooses among these steps: that of a probe which the
    attacker trains on four fifths of its rows, on the other fifth (`TrainingRows.split`); None where targets are
    constant. losses: (budget + 1) float64, the training loss after 0, 1, 2, … steps. optimum: the optimum on the
    attacked features, of probes with an intercept if the attacker has one. extractor: the released extractor. inputs:
    rows of the task with the extractor's inputs, by split (`train`, `heldout`).
    """

    steps: tuple[int, ...]
    heads: torch.Tensor
    biases: torch.Tensor
    validation: torch.Tensor | None
    losses: torch.Tensor
    optimum: Optimum
    extractor: Extractor
    inputs: Mapping[str, Split]

    @cached_property
    def train(self) -> Split:
        """Features of the training rows: the attacker's data."""
        return self.extractor.features(self.inputs["train"])

    @cached_property
    def heldout(self) -> Split:
        """Features of the held-out rows."""
        return self.extractor.features(self.inputs["heldout"])


@dataclass(frozen=True, kw_only=True)
class AttackData:
    """The data that a metric of an attack receives with the attack's `Trajectory`.

    role: role of the attacked task. loss: loss of the probe. success: excess loss at which an attack has succeeded.
    score: score on held-out rows; None where their targets are constant. undefended: the same attack on the undefended
    extractor. seed: seed of the metric's random draws.
    """

    role: Role
    loss: Loss
    success: float
    score: Score | None
    undefended: Trajectory
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A random generator with the seed."""
        return torch.Generator().manual_seed(self.seed)
