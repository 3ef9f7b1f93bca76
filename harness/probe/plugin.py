"""The bases of this track's plugins, and what a metric is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from harness.metric import Metric, Value
from harness.plugin import Attacker, Defense
from harness.probe.data import ProbeTargets, Score, Split
from harness.probe.model import Extractor, LinearProbe, Loss
from harness.probe.optimum import Optimum
from harness.probe.tasks import Role


class ProbeDefense(Defense):
    """Immunizes a feature extractor."""

    track: ClassVar[str] = "probe"

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[Any]:
        """Change the extractor in place, given the training rows of the benign and the harmful task."""
        raise NotImplementedError


class ProbeAttacker(Attacker):
    """Trains a linear probe on the frozen features of a released extractor."""

    track: ClassVar[str] = "probe"

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[Any]:
        """Change the probe's weight in place; `data.x` are the features of the task's training rows, (rows, dim)
        float64."""
        raise NotImplementedError


class ProbeMetric(Metric):
    """Measures a released extractor or, with `measures = "attacked"`, an attack on it."""

    track: ClassVar[str] = "probe"

    def measure(self, model: Any, data: Any) -> Iterator[Value]:
        """Yield values.

        Before an attack `model` is the released `Extractor` and `data` a `ReleasedData`. Otherwise `model` is the
        `Trajectory` of an attack and `data` an `AttackData`; one call measures the attack on one task, harmful or
        benign, and its values need no role.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ReleasedData(ProbeTargets):
    """What a metric of a released extractor is given: beside the targets of a defense (`benign`, `harmful`, the seed)

    heldout: the held-out rows. loss: the probe's. optima: by role, the optimum on the released extractor's features.
    undefended: by role, that on the undefended extractor's.
    """

    heldout: ProbeTargets
    loss: Loss
    optima: Mapping[Role, Optimum]
    undefended: Mapping[Role, Optimum]


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """An attack on one task of a released extractor: the probes that it passed through.

    steps: the measured optimisation steps, rising. heads: (dim, measured steps) float64, the probe's weight after each
    of them. losses: (budget + 1) float64, the training loss after 0, 1, 2, … steps. optimum: of the features attacked.
    extractor: the released one. inputs: the task's rows as the extractor takes them, `train` and `heldout`.
    """

    steps: tuple[int, ...]
    heads: torch.Tensor
    losses: torch.Tensor
    optimum: Optimum
    extractor: Extractor
    inputs: Mapping[str, Split]

    @cached_property
    def train(self) -> Split:
        """Features of the training rows, which the attacker had."""
        return self.extractor.features(self.inputs["train"])

    @cached_property
    def heldout(self) -> Split:
        """Features of the held-out rows."""
        return self.extractor.features(self.inputs["heldout"])


@dataclass(frozen=True, kw_only=True)
class AttackData:
    """What a metric of an attack is given beside the attack.

    role: the task attacked. loss: the probe's. success: the excess loss at which an attack has succeeded. score: how
    held-out rows are scored; None where their targets are constant. undefended: the same attack on the undefended
    extractor. seed: of the metric's own draws.
    """

    role: Role
    loss: Loss
    success: float
    score: Score | None
    undefended: Trajectory
    seed: int = 0

    def generator(self) -> torch.Generator:
        """Random numbers from the seed."""
        return torch.Generator().manual_seed(self.seed)
