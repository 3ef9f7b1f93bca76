"""The contract of a track: a kind of model, how it is made, attacked and measured.

The engine walks the grid, chooses seeds, measures run costs and makes a default table and default curves (see
`harness.plan` and `harness.leaderboard`); a track says what the jobs of one model are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import UsageError
from harness.plugin import PluginSpec
from harness.ranking import Ranking
from harness.stage import Stage, seed_of

if TYPE_CHECKING:
    import pandas as pd

    from harness.kit.trial import Trial


def _round_steps(fields: dict[str, Any]) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, … below the budget, and the budget."""
    steps = fields.get("steps", 1)
    rounded = [digit * 10**power for power in range(len(str(steps))) for digit in (1, 2, 5)]
    return (*(step for step in rounded if step < steps), steps)


class Protocol(BaseModel):
    """How a grid attacks and measures; a track adds its own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str = Field("none", description="the defense that stands for no defense")
    steps: int = Field(100, ge=1, description="budget of every attacker, in its own steps")
    measure_at: tuple[int, ...] = Field(
        default_factory=_round_steps,
        description="steps to measure at, rising; by default 1, 2, 5, 10, 20, … and the last",
    )

    @model_validator(mode="after")
    def _steps_within_budget(self) -> Protocol:
        if not self.measure_at or sorted(set(self.measure_at)) != list(self.measure_at):
            raise ValueError("measure_at must rise from step to step")
        if self.measure_at[0] < 0 or self.measure_at[-1] > self.steps:
            raise ValueError(f"measure_at must lie within 0 … steps = {self.steps}")
        return self


class Task(BaseModel):
    """A single task that stands for itself in a suite file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def label(self) -> str:
        """Its name in tables: its fields' values by default."""
        return " ".join(str(value) for value in self.model_dump().values())

    def expand(self) -> Sequence[Any]:
        """The single tasks of an entry: itself by default."""
        return [self]


@dataclass(frozen=True)
class Repetition:
    """One task under one seed: an independent repetition.

    Every random draw of its cells comes from `draw`, a hash of the task, the seed and the purpose. No defense is in it,
    so two defenses of a repetition meet the same attack; other tasks and seeds share no draw.
    """

    task: Any
    protocol: Any
    seed: int
    place: int = 0
    """The task's place in the grid, from 0."""

    def draw(self, *purpose: Any) -> int:
        """The seed of the draws for a purpose, given as JSON values."""
        return seed_of(self.task.label, self.seed, *purpose)

    def seed_for(self, plugin: PluginSpec, *purpose: Any) -> int | None:
        """The seed of a plugin's own draws; None if it draws nothing."""
        return None if plugin.deterministic else self.draw(plugin.kind, *purpose)

    def job(self, stage: type[Any], plugin: PluginSpec, **fields: Any) -> Any:
        """A stage of this task that runs a plugin with its seed."""
        return stage(task=self.task, plugin=plugin, seed=self.seed_for(plugin), **fields)


class Track(ABC):
    """A kind of model and attack."""

    kind: ClassVar[str] = "track"
    name: ClassVar[str]
    task_model: ClassVar[type[BaseModel]]
    """An entry of a grid's `tasks`; its `expand()` gives the single tasks."""
    single_task_model: ClassVar[type[BaseModel]]
    """A single task, with a `label`; must round-trip through `model_dump`."""
    protocol_model: ClassVar[type[Protocol]] = Protocol
    metrics: ClassVar[Sequence[str]] = ()
    """Names of the metric plugins that every grid measures."""

    @abstractmethod
    def immunize(self, repetition: Repetition, defense: PluginSpec) -> Stage:
        """The job that makes the released model. Its artifact has the reading of its cost (see `Stage.pull`)."""

    @abstractmethod
    def attacks(self, repetition: Repetition, model: Stage, attacker: PluginSpec) -> Sequence[Stage]:
        """The jobs in which an attacker adapts a released model to the harmful task; their artifacts have readings."""

    @abstractmethod
    def measure(
        self,
        repetition: Repetition,
        metric: PluginSpec,
        model: Stage,
        undefended: Stage,
        attacker: PluginSpec | None = None,
    ) -> Iterator[tuple[Mapping[str, Any], Stage]]:
        """The jobs that measure a metric on a released model or, with an `attacker`, on the attacked one; each leaves
        values (see `harness.metric.write_values`). Yields further coordinates of the cell (`role`), if any, and the
        job. undefended: the released model of the reference row, the same job as `model` in that row."""

    def pictures(
        self, repetition: Repetition, model: Stage, undefended: Stage, attackers: Mapping[str, PluginSpec]
    ) -> Iterator[Stage]:
        """Jobs that leave pictures (`*.png`) of a row, beside no values; called with a grid's first seed alone."""
        yield from ()

    def ranking(self, protocol: Any, attacked: bool) -> Ranking | None:
        """Which value ranks a grid's defenses; None: nothing is ranked. attacked: the grid has attackers."""
        return None

    def members(self, task: Any) -> Sequence[str]:
        """What a task has in common with others (digits, concepts); statistics take tasks that share one as alike."""
        return (task.label,)

    def save_model(self, model: Stage, artifact: Path, out: Path) -> None:
        """Save a released model, given its job and artifact folder, into the folder `out` in its ecosystem's format.
        Raises `UsageError` by default."""
        raise UsageError(f"track '{self.name}' saves no models")

    def trials(self, kind: str, seed: int) -> Sequence[Trial]:
        """Tiny tasks for the conformance kit. A plugin of `kind` (defense, attacker or metric) is tried on the first
        one that it does not refuse by `RunError`."""
        return ()

    def table(self, board: pd.DataFrame) -> pd.DataFrame | None:
        """The readable table of a long-form board (see `harness.leaderboard.long_form`); None: the default one."""
        return None

    def plots(self, records: pd.DataFrame, out: Path) -> list[Path] | None:
        """Draw plots of the records into the folder `out`; their files. None: the default curves."""
        return None
