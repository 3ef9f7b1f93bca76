"""Suites: versioned grids of tasks × defenses × attackers × seeds, each with a protocol.

A `Suite` is a suite to run: every task, row and seed of its file (see `harness.suite_reader`) is written out. It is a
pydantic model of plain data, and a submission contains it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from harness.ensemble import Ensemble
from harness.labels import FrozenModel, Label, Name, Text, check_distinct
from harness.metric import Quantity
from harness.plugin import PluginSpec
from harness.ranking import Ranking, ThreatModel
from harness.suite_file import Tuning
from harness.track import MOST_SEEDS


class Grid(FrozenModel):
    """A grid to run: every task, row and seed is written out, with the fields that a board needs."""

    name: Name
    track: Label
    tasks: list[dict[str, Any]] = Field(min_length=1, description="single tasks, as the track's model dumps them")
    protocol: dict[str, Any] = Field(description="protocol, as the track's model dumps it")
    defenses: dict[Label, PluginSpec] = Field(min_length=1)
    attackers: dict[Label, PluginSpec]
    metrics: dict[Label, PluginSpec]
    seeds: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, max_length=MOST_SEEDS)
    reference: PluginSpec = Field(
        description="the defense that releases the undefended model, whether or not it is a row"
    )
    ranking: Ranking | None = Field(description="value that ranks the defenses; null: there is no ranking")
    threat_models: dict[Label, ThreatModel] = Field(
        {}, description="sets of attackers, each a column of the board; empty: there is no ranking or no attacker"
    )
    ensemble: Ensemble | None = Field(
        None,
        description="the ensemble that gave attackers and threat models to the grid; null: all are the suite's own",
    )
    tuned: dict[Label, dict[Label, PluginSpec]] = Field(
        {}, description="by attacker, then by defense, the attacker with settings that were searched for this defense"
    )
    sweeps: dict[Label, list[Label]] = Field(
        {}, description="by label of a swept row, the labels of its rows in `defenses`, the weakest first"
    )
    members: dict[Label, list[Label]] = Field(
        description="by task label, the parts (digits, concepts) that tasks may share"
    )
    quantities: list[Quantity] = Field(description="quantities that the metrics and run costs measure")
    changed: list[Text] = Field(
        [], description="differences from the suite file: tasks and rows changed, rows added, rows or seeds left out"
    )
    notes: list[Text] = Field([], description="lines about the data of the tasks, from the track")

    @model_validator(mode="after")
    def _names_of_rows(self) -> Grid:
        for kind in ("defense", "attacker", "metric"):
            check_distinct(getattr(self, f"{kind}s"), kind)
        check_distinct(self.members, "task")
        for field, sets, rows in (
            ("threat_models", {name: model.attackers for name, model in self.threat_models.items()}, self.attackers),
            ("sweeps", self.sweeps, self.defenses),
        ):
            for name, labels in sets.items():
                if unknown := [label for label in labels if label not in rows]:
                    raise ValueError(f"{field}: '{name}' names '{unknown[0]}', which is no row of the grid")
        return self

    def rows(self, *kinds: str) -> Iterator[tuple[str, str, PluginSpec]]:
        """Kind, label and plugin of each row. kinds: `defense`, `attacker` or `metric`; by default those that boards
        have as rows, defenses and attackers."""
        for kind in kinds or ("defense", "attacker"):
            yield from ((kind, label, spec) for label, spec in getattr(self, f"{kind}s").items())

    def attacker(self, label: str, defense: str) -> PluginSpec:
        """The attacker `label` against the row `defense`."""
        return self.tuned.get(label, {}).get(defense, self.attackers[label])

    def family(self, defense: str) -> str:
        """The label of the swept row to which the row `defense` belongs, or its own."""
        return next((sweep for sweep, labels in self.sweeps.items() if defense in labels), defense)

    @property
    def undefended(self) -> list[str]:
        """Labels of the rows that stand for no defense."""
        return [label for label in self.defenses if self.control(label) == "undefended"]

    def control(self, defense: str) -> str | None:
        """Kind of control of the row `defense`: `undefended` for the reference, `control` for another control row, None
        for any other row."""
        spec = self.defenses[defense]
        if spec.identity == self.reference.identity:
            return "undefended"
        return "control" if spec.control else None

    def changes_of(self, kind: str, label: str) -> list[str]:
        """How the row `label` of a kind differs from the suite file, e.g. `attackers.adam.lr=0.1`."""
        row = f"{kind}s.{self.family(label) if kind == 'defense' else label}"
        return [change for change in self.changed if change.partition("=")[0].rpartition(".")[0] == row]

    def settings_of(self, kind: str, label: str) -> str:
        """The same in short: `lr=0.1`, or `added`; empty if the row does not differ."""
        return ", ".join(change_of_row(change)[1] for change in self.changes_of(kind, label))


class Suite(FrozenModel):
    """A suite to run."""

    name: Name
    version: int = Field(ge=1)
    title: Text
    description: str = Field(max_length=20000)
    grids: list[Grid] = Field(min_length=1)
    tuning: Tuning | None = None
    published: Path | None = Field(None, exclude=True, description="a tidy CSV of published values")
    plugins: tuple[Path, ...] = Field((), exclude=True, description="plugin files beside what is installed")
    folder: Path = Field(
        Path(), exclude=True, description="folder of the suite file, to which paths in tasks are relative"
    )

    def grid(self, name: str) -> Grid:
        """The grid called `name`."""
        return next(grid for grid in self.grids if grid.name == name)

    @property
    def changed(self) -> list[str]:
        """Differences from the suite file, as `grid: change`."""
        return [f"{grid.name}: {change}" for grid in self.grids for change in grid.changed]


def change_of_row(change: str) -> tuple[str, str]:
    """The label and the setting in the change of a row: `adam` and `lr=0.1` in `attackers.adam.lr=0.1`."""
    field, equals, value = change.partition("=")
    row, _, name = field.rpartition(".")
    return row.partition(".")[2], f"{name.strip()}{equals}{value}"


def rows_left_out(kept: int, given: int, kind: str) -> str | None:
    """The change that only `kept` of the `given` rows of a suite file's grid are left; None if all of them are."""
    return f"{kept} of {given} {kind}s" if kept < given else None


def other_seeds(seeds: Sequence[int], given: Sequence[int]) -> str | None:
    """The change that a grid has other seeds than those `given` in the suite file; None if it has the same ones."""
    if set(seeds) == set(given):
        return None
    return f"seeds {', '.join(map(str, seeds))} instead of {', '.join(map(str, given))}"
