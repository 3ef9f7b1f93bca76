"""The contract of a track: a kind of model, and how one model is made, attacked and measured.

The engine walks the grid, chooses seeds, measures run costs and makes a default table and default curves (see
`harness.plan` and `harness.leaderboard`). A track defines the jobs of one model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field, model_validator

from harness.demands import Demand
from harness.errors import UsageError
from harness.labels import FrozenModel
from harness.plugin import Plugin, PluginSpec
from harness.ranking import Outcome, Ranking
from harness.stage import Located, Stage, seed_of

if TYPE_CHECKING:
    import pandas as pd

    from harness.kit.trial import Trial


PICTURES = "pictures"
"""Coordinate `measured_by` of pictures."""
MOST_SEEDS = 1000
"""Largest number of seeds of a grid."""


def _round_steps(fields: dict[str, Any]) -> tuple[int, ...]:
    """The steps 1, 2, 5, 10, 20, … below the budget, and the budget itself."""
    steps = fields.get("steps", 1)
    rounded = [digit * 10**power for power in range(len(str(steps))) for digit in (1, 2, 5)]
    return (*(step for step in rounded if step < steps), steps)


class Protocol(FrozenModel):
    """Budget and measured steps of a grid; a track adds its own fields."""

    reference: str = Field("none", description="name of the defense that leaves the model undefended")
    steps: int = Field(100, ge=1, description="budget of every attacker, in optimisation steps of the attacker")
    measure_at: tuple[int, ...] = Field(
        default_factory=_round_steps,
        description="optimisation steps after which to measure, ascending; by default 1, 2, 5, 10, 20, … and the last",
    )

    @model_validator(mode="after")
    def _steps_within_budget(self) -> Protocol:
        if not self.measure_at or sorted(set(self.measure_at)) != list(self.measure_at):
            raise ValueError("measure_at must be ascending, without duplicates")
        if self.measure_at[0] < 0 or self.measure_at[-1] > self.steps:
            raise ValueError(f"measure_at must lie within 0 … steps = {self.steps}")
        return self


class Task(FrozenModel):
    """A single task, written out as one entry of `tasks` in a suite file."""

    @property
    def label(self) -> str:
        """Name of the task in tables, which no other task of a grid has; by default the values of its fields."""
        return " ".join(str(value) for value in self.model_dump().values())

    def expand(self) -> Sequence[Any]:
        """The single tasks that this entry stands for; by default the entry itself."""
        return [self]


@dataclass(frozen=True)
class Repetition:
    """One task under one seed: an independent repetition.

    Every random draw of its cells comes from `draw`, a hash of the task, the seed and the purpose. The hash does not
    depend on the defense, so two defenses of a repetition meet the same attack. Two repetitions share no draw.

    task: a single task, of the track's `single_task_model`. protocol: the grid's protocol. seed: one of the grid's
    seeds. place: the task's position in the grid, from 0.
    """

    task: Any
    protocol: Any
    seed: int
    place: int = 0

    def draw(self, *purpose: Any) -> int:
        """The seed of the random draws for one purpose. purpose: JSON values that identify the draws."""
        return seed_of(self.task.label, self.seed, *purpose)

    def seed_for(self, plugin: PluginSpec, *purpose: Any) -> int | None:
        """The seed of the random draws of `plugin`; None if it draws nothing.

        purpose: JSON values that distinguish several runs of the plugin, for example a concept's name.
        """
        return None if plugin.deterministic else self.draw(plugin.kind, *purpose)

    def job(self, stage: type[Any], plugin: PluginSpec, **fields: Any) -> Any:
        """Create a stage of this task that runs `plugin` with its seed.

        stage: the stage class, with fields `task`, `plugin` and `seed`. fields: values of its other fields.
        """
        return stage(task=self.task, plugin=plugin, seed=self.seed_for(plugin), **fields)


class Track(ABC):
    """A kind of model: defines the jobs that make, attack and measure one model."""

    kind: ClassVar[str] = "track"
    name: ClassVar[str]
    task_model: ClassVar[type[BaseModel]]
    """Model of an entry of a grid's `tasks`; its `expand()` returns the single tasks."""
    single_task_model: ClassVar[type[BaseModel]]
    """Model of a single task, with a property `label`; must round-trip through `model_dump`."""
    protocol_model: ClassVar[type[Protocol]] = Protocol
    metrics: ClassVar[Sequence[str]] = ()
    """Names of the metric plugins that every grid of the track measures."""
    curves: ClassVar[Sequence[str]] = ()
    """Names of the quantities that the engine draws against steps; empty: the value that ranks."""

    def check(self, tasks: Sequence[Any], protocol: Any, rows: Mapping[str, Plugin]) -> Sequence[str]:
        """Check that the parts of a grid fit together, before anything is computed; by default they do.

        tasks: the single tasks. protocol: the protocol. rows: the plugins by kind and label, as in a message
        (`attacker 'adam'`). Returns lines about the tasks' data, which `plan` and `run` print and a board shows. Raises
        `UsageError`, whose message need not name the grid, if two parts do not fit.
        """
        return ()

    def missing(self, task: Any) -> Iterator[str]:
        """Yield a line for each thing that `task` needs and this machine lacks, a data set or weights, with what to do;
        by default nothing. task: a single task. A run leaves out the grids of such tasks."""
        yield from ()

    def fetches(self, task: Any, protocol: Any) -> Iterator[str]:
        """Yield the commands that download what a task needs and this machine lacks, in part or whole; by default none.
        `plan` and `run` print them. task: a single task. protocol: the protocol."""
        yield from ()

    def demands(self, jobs: Iterable[Stage]) -> Iterator[Demand]:
        """Yield what `jobs` of this track need on a device, counted before they run; by default nothing is known."""
        yield from ()

    @abstractmethod
    def immunize(self, repetition: Repetition, defense: PluginSpec) -> Stage:
        """The job that makes the released model of a defense.

        repetition: the task, protocol and seed. defense: the defense's plugin. The job must save the run cost of the
        defense in its artifact (see `Stage.pull`).
        """

    @abstractmethod
    def attacks(self, repetition: Repetition, model: Stage, attacker: PluginSpec) -> Sequence[Stage]:
        """The jobs in which an attacker fine-tunes a released model on the harmful task.

        repetition: the task, protocol and seed. model: the job of the released model. attacker: the attacker's plugin.
        Each job must save the run cost of the attack in its artifact (see `Stage.pull`).
        """

    @abstractmethod
    def measure(
        self,
        repetition: Repetition,
        metric: PluginSpec,
        model: Stage,
        undefended: Stage,
        attacker: PluginSpec | None = None,
    ) -> Iterator[tuple[Mapping[str, Any], Stage]]:
        """Yield the jobs that measure a metric, each with further coordinates of its cell (`role`) or an empty mapping.

        repetition: the task, protocol and seed. metric: the metric's plugin. model: the job of the released model.
        undefended: the job of the undefended model; in the undefended row it is `model` itself. attacker: the attacker
        whose result is measured; None: the released model is measured. Each job writes values into its artifact (see
        `harness.metric.write_values`).
        """

    def pictures(
        self,
        repetition: Repetition,
        models: Mapping[str, Stage],
        undefended: Stage,
        attackers: Mapping[str, Mapping[str, PluginSpec]],
    ) -> Iterator[tuple[Mapping[str, Any], Stage]]:
        """Yield jobs that write pictures (`*.png`) of a task, and no values, into their artifacts, each with its
        further coordinates: `defense` or `attacker`, for pictures of one row.

        The engine calls it for the first seed of a grid only. repetition: the task, protocol and seed. models: the jobs
        of the released models, by defense row. undefended: the job of the undefended model. attackers: the grid's
        attackers, by attacker row and defense row.
        """
        yield from ()

    def ranking(self, protocol: Any, attacked: bool, tasks: Sequence[Any] = ()) -> Ranking | None:
        """The value that ranks the defenses of a grid; None (the default): there is no ranking.

        protocol: the grid's protocol. attacked: whether the grid has attackers. tasks: its single tasks.
        """
        return None

    def outcomes(self, protocol: Any) -> Mapping[str, Outcome]:
        """The values, besides the one that ranks, that can say how far an attack of a threat model has got, by name.

        protocol: the grid's protocol.
        """
        return {}

    def members(self, task: Any) -> Sequence[str]:
        """Names of the parts (digits, concepts) of `task`; statistics treat two tasks that share a part as
        dependent."""
        return (task.label,)

    def save_model(self, model: Stage, artifact: Path, out: Path) -> None:
        """Save a released model as files that its library loads.

        model: the job of the released model. artifact: its artifact folder. out: the folder to write. By default raises
        `UsageError`, because the track saves no models.
        """
        raise UsageError(f"track '{self.name}' saves no models")

    def load_model(self, repetition: Repetition, defense: PluginSpec, weights: Located) -> Stage:
        """The job that reads a released model from a checkpoint, in the form that `save_model` writes.

        repetition: the task, protocol and seed. defense: the plugin of the row. weights: the folder (see
        `harness.checkpoint_folder` for its part for one task) with its digest, which must be in the job's key; without
        a path, the job cannot run here. Raises `UsageError` if the weights do not fit the task's base model, and by
        default always, because the track reads no models.
        """
        raise UsageError(f"track '{self.name}' reads no checkpoints")

    def trials(self, kind: str, seed: int) -> Sequence[Trial]:
        """Tiny tasks for the conformance kit, which runs a plugin on the first one that the plugin does not refuse with
        a `RunError`.

        kind: kind of the plugin (defense, attacker or metric). seed: seed of all random draws of the tasks.
        """
        return ()

    def table(self, board: pd.DataFrame) -> pd.DataFrame | None:
        """The readable table of `board`, a board in long form (see `harness.leaderboard.long_form`); None (the
        default): the engine's table."""
        return None

    def plots(self, records: pd.DataFrame, out: Path) -> list[Path]:
        """Draw plots of `records` (columns `harness.records.COLUMNS`), besides those of the engine, into the folder
        `out` and return the files; by default none."""
        return []
