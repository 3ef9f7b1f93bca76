"""Plans: a suite's grids walked once, for every track, into cells and jobs.

The engine decides here which cells there are, which seed each draws from, and that what draws nothing is one cell, not
one a seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from harness.costs import RunCost
from harness.errors import UsageError, describe
from harness.plugin import PluginSpec
from harness.registry import installed
from harness.stage import Stage, unique
from harness.store import Store
from harness.suite import Grid, Suite
from harness.track import Repetition, Track

COST = "cost"
"""What measured a run cost, in the coordinate `measured_by`."""
PICTURES = "pictures"
"""What made pictures, in the coordinate `measured_by`."""


@dataclass(frozen=True)
class Cell:
    """One metric at one point of a grid: its coordinates and the job that measures it.

    coordinates: `grid`, `task`, `defense`, `attacker` (None: the released model), `seed` (None: nothing random),
    `measured_by` (the metric's label, `cost` or `pictures`) and those that the track adds (`role`).
    """

    coordinates: Mapping[str, Any]
    job: Stage


@dataclass(frozen=True)
class Plan:
    """A suite's cells, and every job that they need by key, parents before children."""

    suite: Suite
    cells: tuple[Cell, ...]
    jobs: Mapping[str, Stage]

    def missing(self, store: Store) -> dict[str, Stage]:
        """The jobs to run: those that a cell or a missing job needs and the store lacks. Cells' artifacts are checked
        for damage, the others when they are read."""
        measured = {cell.job.key for cell in self.cells}
        wanted = set(measured)
        missing: set[str] = set()
        for key, job in reversed(list(self.jobs.items())):  # children before parents
            there = store.open(key) is not None if key in measured else store.has(key)
            if key in wanted and not there:
                missing.add(key)
                wanted.update(parent.key for parent in job.parents)
        return {key: job for key, job in self.jobs.items() if key in missing}

    def part(self, keys: set[str]) -> Plan:
        """The plan of the cells with these keys alone."""
        cells = tuple(cell for cell in self.cells if cell.job.key in keys)
        return Plan(self.suite, cells, unique(cell.job for cell in cells))

    def describe(self, job: Stage) -> str:
        """The cell that a job is for, for people."""
        return self._labels.get(job.key, job.name)

    @cached_property
    def _labels(self) -> dict[str, str]:
        labels: dict[str, str] = {}
        for cell in self.cells:
            at = cell.coordinates
            label = " · ".join(str(at[name]) for name in ("task", "defense", "attacker") if at.get(name))
            for job in cell.job.ancestry():
                labels.setdefault(job.key, label)
        return labels


def make(suite: Suite) -> Plan:
    """The plan of a suite; raises `UsageError` for a track that is not available or tasks that it refuses."""
    registry = installed().with_files(suite.plugins)
    cells: list[Cell] = []
    for grid in suite.grids:
        seen: set[tuple[Any, ...]] = set()
        for coordinates, job in _walk(grid, registry.track(grid.track, f"grid '{grid.name}'")):
            at = {"grid": grid.name, **coordinates, "seed": coordinates["seed"] if job.random else None}
            identity = (*sorted((name, str(value)) for name, value in at.items()), job.key)
            if identity not in seen:
                seen.add(identity)
                cells.append(Cell(at, job))
    return Plan(suite, tuple(cells), unique(cell.job for cell in cells))


def repetitions(grid: Grid, track: Track) -> Iterator[Repetition]:
    """Each task of a grid under each of its seeds; raises `UsageError` for what the track's models refuse."""
    try:
        tasks = [track.single_task_model.model_validate(task) for task in grid.tasks]
        protocol = track.protocol_model.model_validate(grid.protocol)
    except ValidationError as error:
        raise UsageError(f"grid '{grid.name}': {describe(error)}") from None
    for place, task in enumerate(tasks):
        for seed in grid.seeds:
            yield Repetition(task, protocol, seed, place)


def _walk(grid: Grid, track: Track) -> Iterator[tuple[dict[str, Any], Stage]]:
    """The coordinates of each cell and its job, before cells without random draws are merged over seeds."""
    for repetition in repetitions(grid, track):
        undefended = track.immunize(repetition, grid.reference)
        for label, defense in grid.defenses.items():
            model = track.immunize(repetition, defense)
            row = {"task": repetition.task.label, "defense": label, "attacker": None, "seed": repetition.seed}
            yield from _measured(grid, track, repetition, row, model, undefended)
            for name, attacker in grid.attackers.items():
                attacked = row | {"attacker": name}
                yield from _measured(grid, track, repetition, attacked, model, undefended, attacker)
            if repetition.seed == grid.seeds[0]:
                for job in track.pictures(repetition, model, undefended, grid.attackers):
                    yield row | {"measured_by": PICTURES}, job


def _measured(
    grid: Grid,
    track: Track,
    repetition: Repetition,
    row: dict[str, Any],
    model: Stage,
    undefended: Stage,
    attacker: PluginSpec | None = None,
) -> Iterator[tuple[dict[str, Any], Stage]]:
    """The metrics and the run cost of a released or an attacked model."""
    kind = "released" if attacker is None else "attacked"
    for label, metric in grid.metrics.items():
        if metric.measures == kind:
            for further, job in track.measure(repetition, metric, model, undefended, attacker):
                yield row | {"measured_by": label} | dict(further), job
    jobs = (model,) if attacker is None else tuple(track.attacks(repetition, model, attacker))
    yield row | {"measured_by": COST}, RunCost(jobs=jobs)
