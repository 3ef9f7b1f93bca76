"""Plans: a suite's grids walked once, for every track, into cells and jobs.

Here the engine decides which cells a suite has, and which seed each of them draws from. A cell that draws no random
numbers exists once, not once for each seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from harness import checkpoints, source
from harness.costs import COST, RunCost
from harness.demands import Demand
from harness.errors import UsageError, describe
from harness.plugin import PluginSpec
from harness.registry import installed
from harness.stage import Stage, unique
from harness.store import Store
from harness.suite import Grid, Suite
from harness.track import PICTURES, Repetition, Track


@dataclass(frozen=True)
class Cell:
    """One metric at one point of a grid: its coordinates and the job that measures it.

    coordinates: `grid`, `task`, `defense` (None: pictures of several), `attacker` (None: the released model), `seed`
    (None: nothing random), `measured_by` (the metric's label, `cost` or `pictures`) and those that the track adds
    (`role`).
    """

    coordinates: Mapping[str, Any]
    job: Stage


@dataclass(frozen=True)
class Plan:
    """The cells of a suite, and all jobs that they need.

    suite: the suite to run. cells: its cells. jobs: the jobs by key, parents before children.
    """

    suite: Suite
    cells: tuple[Cell, ...]
    jobs: Mapping[str, Stage]

    def missing(self, store: Store) -> dict[str, Stage]:
        """The jobs to run, by key: those that a cell or a missing job needs and `store` lacks.

        The artifacts of cells are checked for damage now; other artifacts are checked when a job reads them.
        """
        measured = {cell.job.key for cell in self.cells}
        wanted = set(measured)
        missing: set[str] = set()
        for key, job in reversed(list(self.jobs.items())):  # children before parents
            exists = store.open(key) is not None if key in measured else store.has(key)
            if key in wanted and not exists:
                missing.add(key)
                wanted.update(parent.key for parent in job.parents)
        return {key: job for key, job in self.jobs.items() if key in missing}

    def part(self, keys: set[str]) -> Plan:
        """The plan that has only the cells with the keys `keys`."""
        cells = tuple(cell for cell in self.cells if cell.job.key in keys)
        return Plan(self.suite, cells, unique(cell.job for cell in cells))

    def describe(self, job: Stage) -> str:
        """Label of the first cell that needs `job`: task · defense · attacker · seed, with the job's own concept."""
        concept = getattr(getattr(job, "concept", None), "name", None)
        return self._labels.get(job.key, job.name) + (f" · {concept}" if concept else "")

    @cached_property
    def _labels(self) -> dict[str, str]:
        labels: dict[str, str] = {}
        for cell in self.cells:
            at = cell.coordinates
            parts = [str(at[name]) for name in ("task", "defense", "attacker") if at.get(name)]
            label = " · ".join([*parts, *([f"seed {at['seed']}"] if at.get("seed") else [])])
            for job in cell.job.ancestry():
                labels.setdefault(job.key, label)
        return labels


@source.each_once()
def make(suite: Suite) -> Plan:
    """The plan of `suite`. Raises `UsageError` if a track is not available, or refuses the suite's tasks or
    protocol."""
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


def available(suite: Suite) -> tuple[Suite, dict[str, str]]:
    """`suite` without the grids that need a data set or weights that this machine lacks, and by name the reason of each
    grid that is left out, with the commands that download all that it lacks. Raises `UsageError` if no grid is left."""
    registry = installed().with_files(suite.plugins)
    reasons = {}
    for grid in suite.grids:
        track = registry.track(grid.track, f"grid '{grid.name}'")
        tasks = {repetition.place: repetition.task for repetition in repetitions(grid, track)}.values()
        if lacking := list(dict.fromkeys(line for task in tasks for line in track.missing(task))):
            commands = fetches(suite.model_copy(update={"grids": [grid]}))
            reasons[grid.name] = "; ".join(lacking + ["to download: " + "; ".join(commands)] * bool(commands))
    grids = [grid for grid in suite.grids if grid.name not in reasons]
    if not grids:
        raise UsageError("; ".join(dict.fromkeys(reasons.values())))
    return suite.model_copy(update={"grids": grids}), reasons


def fetches(suite: Suite) -> list[str]:
    """The commands that download what `suite` needs and this machine lacks, each once."""
    registry = installed().with_files(suite.plugins)
    commands: dict[str, None] = {}
    for grid in suite.grids:
        track = registry.track(grid.track, f"grid '{grid.name}'")
        for repetition in repetitions(grid, track):
            commands |= dict.fromkeys(track.fetches(repetition.task, repetition.protocol))
    return list(commands)


def demands(plan: Plan, jobs: Iterable[Stage]) -> Iterator[Demand]:
    """What `jobs` of the plan need on a device, as far as their tracks can count it."""
    registry = installed().with_files(plan.suite.plugins)
    for name in dict.fromkeys(grid.track for grid in plan.suite.grids):
        yield from registry.track(name, "the suite").demands([job for job in jobs if job.track == name])


def repetitions(grid: Grid, track: Track) -> Iterator[Repetition]:
    """Each task of `grid` under each of its seeds. Raises `UsageError` if the models of `track` refuse a task or the
    protocol."""
    try:
        tasks = [track.single_task_model.model_validate(task) for task in grid.tasks]
        protocol = track.protocol_model.model_validate(grid.protocol)
    except ValidationError as error:
        raise UsageError(f"grid '{grid.name}': {describe(error)}") from None
    for place, task in enumerate(tasks):
        for seed in grid.seeds:
            yield Repetition(task, protocol, seed, place)


def released(track: Track, repetition: Repetition, defense: PluginSpec) -> Stage:
    """The job that makes the released model of the row `defense`, or reads it if the row is a checkpoint; raises
    `UsageError` for a checkpoint that does not fit the task."""
    if defense.name != checkpoints.PLUGIN:
        return track.immunize(repetition, defense)
    weights = checkpoints.weights_of(defense)
    try:
        return track.load_model(repetition, defense, weights)
    except UsageError as error:
        raise UsageError(f"task '{repetition.task.label}': {error}") from None


def _walk(grid: Grid, track: Track) -> Iterator[tuple[dict[str, Any], Stage]]:
    """Coordinates and job of each cell; a cell without random draws still appears once for each seed."""
    for repetition in repetitions(grid, track):
        undefended = track.immunize(repetition, grid.reference)
        models = {label: released(track, repetition, defense) for label, defense in grid.defenses.items()}
        task = {"task": repetition.task.label, "defense": None, "attacker": None, "seed": repetition.seed}
        for label, model in models.items():
            row = task | {"defense": label}
            yield from _measured(grid, track, repetition, row, model, undefended)
            for name in grid.attackers:
                attacked = row | {"attacker": name}
                attacker = grid.attacker(name, label)
                yield from _measured(grid, track, repetition, attacked, model, undefended, attacker)
        if repetition.seed == grid.seeds[0]:
            attackers = {name: {label: grid.attacker(name, label) for label in models} for name in grid.attackers}
            for further, job in track.pictures(repetition, models, undefended, attackers):
                yield task | {"measured_by": PICTURES} | dict(further), job


def _measured(
    grid: Grid,
    track: Track,
    repetition: Repetition,
    row: dict[str, Any],
    model: Stage,
    undefended: Stage,
    attacker: PluginSpec | None = None,
) -> Iterator[tuple[dict[str, Any], Stage]]:
    """Coordinates and job of the metrics and the run cost of a released or an attacked model."""
    kind = "released" if attacker is None else "attacked"
    for label, metric in grid.metrics.items():
        if metric.measures == kind:
            for further, job in track.measure(repetition, metric, model, undefended, attacker):
                yield row | {"measured_by": label} | dict(further), job
    jobs = (model,) if attacker is None else tuple(track.attacks(repetition, model, attacker))
    yield row | {"measured_by": COST}, RunCost(jobs=jobs)
