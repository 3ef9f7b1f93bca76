"""Verifies a submission: checks its form and digests, compares its keys with those of a plan made here, and runs cells
again.

No part of a submission is unpickled or run. The plugins of this machine run, if their code has the digest in the
submission. Plugin files in the submission are imported only with `trust`.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import random
import secrets
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import machine
from harness.bounded import file_digest
from harness.errors import ImmuneBenchError, UsageError
from harness.execution import scheduler
from harness.execution.executors import Executor
from harness.execution.worker import ensure
from harness.labels import skeleton
from harness.metric import read_values
from harness.plan import Cell, Plan, make
from harness.plugin import KINDS
from harness.ranking import covering
from harness.registry import installed
from harness.selection import Selection
from harness.store import Store, default_root
from harness.submission import provenance, read_write
from harness.submission.agreement import Agreement, Spread, compare
from harness.submission.local_suite import installed_suite, localise, plugin_files
from harness.submission.schema import InvalidSubmission, Submission
from harness.submission.sources import importable
from harness.submission.tier import Tier, Verification
from harness.suite import Grid, Suite, other_seeds, rows_left_out
from harness.suite_file import read
from harness.suite_reader import load
from harness.track import PICTURES

MAX_LISTED = 20
"""Largest number of cells whose agreement is reported individually."""
TIME_LIMIT = 86_400.0
"""Seconds for each job unless the verifier says otherwise, so that no cell of a submission runs without end."""
MAX_POINTS = 10**6
"""Largest number of points of a grid; no plan is made for a larger grid."""


Row = tuple[str, str, str]
"""Grid, kind of plugin and label."""


@dataclass
class Report:
    """The result of a verification.

    lines: messages about what was checked. problems: messages about what is wrong. of_suite: number of cells that the
    submission and the installed suite share, and number of cells of the suite; None if the suite is not installed.
    unchecked: rows whose plugins or weights are missing here. verification: the verification to record; None if there
    are problems.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    of_suite: tuple[int, int] | None = None
    unchecked: list[Row] = field(default_factory=list)
    verification: Verification | None = None


def verify(
    path: Path,
    cells: int | None = 5,
    *,
    seed: int | None = None,
    trust: bool = False,
    store: Path | None = None,
    files: Path | None = None,
    plugins: Sequence[Path] = (),
    checkpoints: Mapping[str, Path] | None = None,
    executor: Callable[[], Executor],
    progress: scheduler.Progress | None = None,
    timeout: float | None = None,
) -> Report:
    """Verify the submission in the file `path`.

    cells: number of cells to run again, drawn at random; None: all cells. seed: seed of this draw; None: a random one.
    trust: whether to import and run the plugin files in the submission. store: folder that keeps the recomputed
    artifacts; None: they are deleted. files: folder to which paths in the suite are relative; None: the installed
    suite's. plugins: plugin files of this machine. checkpoints: folders of the weights of its checkpoints, by row.
    executor: function that creates the executor. progress: gets callbacks. timeout: seconds for each job; None:
    `TIME_LIMIT`.

    Raises `UsageError` if this harness cannot check the submission or the arguments are wrong, and `InvalidSubmission`
    for an invalid file.
    """
    if store is not None and store.resolve() == default_root().resolve():
        raise UsageError("verify needs another store: the store of your runs may have the submitted artifacts already")
    submission = read_write.read(path)
    if submission.older:
        raise UsageError(
            f"{path} was made by an earlier version of the harness, whose keys this one does not reproduce: verify it "
            f"with immunebench at {submission.provenance.commit}"
        )
    report = Report()
    failed = sum(cell.failed is not None for cell in submission.cells)
    report.lines.append(
        f"{submission.suite.name} version {submission.suite.version}, {len(submission.cells)} cells, {failed} of them "
        "failed: form and digests are valid"
    )
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name).resolve()
        with importable(submission.sources if trust else [], temporary / "sources") as trusted:
            local = plugin_files(submission.suite.name, [*trusted, *plugins])
            folder = files or _folder(submission.suite)
            plan = _check_plan(submission, folder, local, checkpoints or {}, report)
            if plan is None or report.problems:
                return report
            measured = _measured(submission)
            report.unchecked = _unchecked(plan.suite)
            seed = secrets.randbelow(2**32) if seed is None else seed
            drawn = _draw(plan, measured, cells, f"{file_digest(path)} {seed}")
            agreements: Counter[Agreement] = Counter()
            if drawn:
                report.lines.append(f"run again: {len(drawn)} of {len(measured)} cells, drawn by --seed {seed}")
                part, fresh = plan.part(set(drawn)), Store(store or temporary / "store")
                failures = scheduler.run(part, fresh, executor(), progress, timeout=timeout or TIME_LIMIT)
                agreements = _check_values(submission, part, fresh, failures, report)
    if not report.problems:
        report.verification = _verification(path, len(measured), len(drawn), seed, report, agreements)
    return report


def _folder(suite: Suite) -> Path:
    """The folder of the installed suite with the name of `suite`; the current folder if there is none."""
    path = installed_suite(suite.name)
    return path.parent if path else Path.cwd()


def _check_plan(
    submission: Submission, folder: Path, plugins: Sequence[Path], checkpoints: Mapping[str, Path], report: Report
) -> Plan | None:
    """Make the plan here and compare it with the submission's cells; None if the submission has too few cells."""
    for grid in submission.suite.grids:
        cells = sum(cell.coordinates["grid"] == grid.name for cell in submission.cells)
        points = len(grid.tasks) * len(grid.defenses) * max(len(grid.attackers), 1)
        if points > cells:
            report.problems.append(f"grid '{grid.name}' lacks cells: it has {cells}, fewer than tasks × rows")
            return None
        if points * len(grid.seeds) * max(len(grid.metrics), 1) > MAX_POINTS:
            raise InvalidSubmission(f"grid '{grid.name}' has more than {MAX_POINTS} points")
    try:
        local = localise(submission, folder, plugins, checkpoints)
        plan = make(local.suite)
    except ImmuneBenchError:
        raise
    except Exception as error:  # a track trusts suite files, but this suite may have any content
        raise InvalidSubmission(f"no plan can be made for its suite: {type(error).__name__}: {error!s:.200}") from None
    _check_stages(submission, plan)
    report.problems += local.problems
    planned = {(_identity(cell.coordinates), cell.job.key) for cell in plan.cells}
    submitted = {(_identity(cell.coordinates), cell.key) for cell in submission.cells}
    report.problems += _differences(planned, submitted)
    if planned == submitted:
        report.lines.append("its cells and keys are those of the plan made here")
        _check_installed(submission, plan, report)
    report.lines += [f"skipped: {reason}" for reason in local.skipped]
    return plan


def _check_stages(submission: Submission, plan: Plan) -> None:
    """Raise `UsageError` for a stage that has another version here."""
    here = provenance.stages(plan.jobs.values())
    for stage, version in submission.provenance.stages.items():
        if here.get(stage, version) != version:
            raise UsageError(
                f"stage {stage} has version {version} in the submission and {here[stage]} here: verify it with "
                f"immunebench at {submission.provenance.commit}"
            )


Identity = tuple[tuple[str, Any], ...]
"""A cell's coordinates in a fixed order."""


def _identity(coordinates: Mapping[str, Any]) -> Identity:
    order = ("grid", "task", "defense", "attacker", "seed", "measured_by")
    names = [*order, *sorted(set(coordinates) - set(order))]
    return tuple((name, coordinates[name]) for name in names if coordinates.get(name) is not None)


def _label(identity: Identity) -> str:
    return " · ".join(str(value) for _, value in identity)


def _differences(planned: set[tuple[Identity, str]], submitted: set[tuple[Identity, str]]) -> Iterator[str]:
    """Messages about differences between the cells and keys of a submission and those of the plan made here."""
    here, there = {cell for cell, _ in planned}, {cell for cell, _ in submitted}
    rekeyed = {cell for cell, _ in submitted - planned} & here
    for problem, cells in (
        ("cells of the plan are missing", here - there),
        ("cells are not in the plan", there - here),
        ("cells have other keys here (changed settings, another data set or another base model)", rekeyed),
    ):
        if cells:
            yield f"{problem}: {len(cells)}, e.g. {min(map(_label, cells))}"


def _check_installed(submission: Submission, plan: Plan, report: Report) -> None:
    """Compare the plan with the installed suite of the same name and version."""
    suite = submission.suite
    name, _, base = suite.name.partition("@")
    path = installed_suite(name)
    if path is None:
        if alike := [entry.name for entry in installed().all("suite") if skeleton(entry.name) == skeleton(name)]:
            report.problems.append(f"the name of suite {name!a} looks like that of {alike[0]}, which is installed here")
        report.lines.append(f"suite {name} is not installed here, so the submission cannot be compared with it")
        return
    if (version := read(path).version) != suite.version:
        report.problems.append(
            f"{name} has version {version} here, not {suite.version}: verify it with immunebench at "
            f"{submission.provenance.commit}"
        )
        return
    whole = load(name, Selection(base=base or None))
    if whole.tuning != suite.tuning:
        report.problems.append(f"the tuning differs from that of {name} version {suite.version}")
    report.problems += _unmarked_changes(plan.suite, whole)
    expected, own = _keys(make(whole).cells), _keys(filter(_can_run, plan.cells))
    measured, changed = _measured(submission), _changed_rows(plan.suite)
    # Several cells may have the same coordinates: pictures show all rows, for example.
    other = [
        _label(at)
        for at, keys in own.items()
        if at in expected and keys & measured and not keys & expected[at] and not changed & set(_rows(at))
    ]
    if other:
        report.problems.append(
            f"cells have another protocol or other settings than in {name} version {suite.version}: {len(other)}, "
            f"e.g. {min(other)}"
        )
    shared = sum(len(keys & expected.get(at, set())) for at, keys in own.items())
    total = sum(len(keys) for keys in expected.values())
    report.of_suite = (shared, total)
    report.lines.append(f"it has {shared} of the suite's {total} cells, and {len(plan.cells) - shared} others")


def _rows(identity: Identity) -> Iterator[Row]:
    """The rows that a cell belongs to."""
    at = dict(identity)
    named = {"defense": at.get("defense"), "attacker": at.get("attacker"), "metric": at["measured_by"]}
    yield from ((at["grid"], kind, label) for kind, label in named.items() if label is not None)


def _changed_rows(suite: Suite) -> set[Row]:
    """The rows that the suite marks as changed or added."""
    return {
        (grid.name, kind, label)
        for grid in suite.grids
        for kind, label, _ in grid.rows(*KINDS)
        if grid.changes_of(kind, label)
    }


def _unmarked_changes(suite: Suite, whole: Suite) -> Iterator[str]:
    """Messages about rows that differ from the installed suite `whole`, and tasks, rows and seeds that the suite leaves
    out, but are not marked as changed. Additional metrics are allowed."""
    known = {(grid.name, kind, label): spec for grid in whole.grids for kind, label, spec in grid.rows(*KINDS)}
    grids = {grid.name: grid for grid in whole.grids}
    for grid in suite.grids:
        for kind, label, spec in grid.rows(*KINDS):
            own = known.get((grid.name, kind, label), spec if kind == "metric" else None)
            same = own is not None and (own.name, own.params) == (spec.name, spec.params)
            if not same and not grid.changes_of(kind, label):
                yield f"grid '{grid.name}': {kind} '{label}' differs from {whole.name} and is not marked as changed"
        if grid.name in grids:
            whole_grid = grids[grid.name]
            if list(grid.threat_models.items()) != list(covering(whole_grid.threat_models, grid.attackers).items()):
                yield f"grid '{grid.name}': the threat models differ from those of {whole.name}"
            if grid.ensemble != whole_grid.ensemble:
                yield f"grid '{grid.name}': the ensemble of attackers differs from that of {whole.name}"
            if grid.sweeps != {row: rows for row, rows in whole_grid.sweeps.items() if {*rows} & {*grid.defenses}}:
                yield f"grid '{grid.name}': the sweeps differ from those of {whole.name}"
            for change in _narrowing(grid, whole_grid):
                if change not in grid.changed:
                    yield f"grid '{grid.name}': {whole.name} is narrowed ({change}) and this is not marked"


def _narrowing(grid: Grid, whole: Grid) -> Iterator[str]:
    """The tasks, rows and seeds of the installed grid `whole` that `grid` leaves out, as changes of the grid."""
    if change := rows_left_out(sum(task in grid.members for task in whole.members), len(whole.members), "task"):
        yield change
    for kind in ("defense", "attacker"):
        given = getattr(whole, f"{kind}s")
        kept = sum(label in getattr(grid, f"{kind}s") for label in given)
        if change := rows_left_out(kept, len(given), kind):
            yield change
    if change := other_seeds(grid.seeds, whole.seeds):
        yield change


def _keys(cells: Iterable[Cell]) -> dict[Identity, set[str]]:
    keys: dict[Identity, set[str]] = defaultdict(set)
    for cell in cells:
        keys[_identity(cell.coordinates)].add(cell.job.key)
    return keys


def _can_run(cell: Cell) -> bool:
    """Whether this machine has the plugins of a cell's jobs."""
    return all(job.plugin is None or job.plugin.module for job in cell.job.ancestry())


def _measured(submission: Submission) -> set[str]:
    """Keys of the cells that a metric measures or that failed, without those of pictures."""
    return {
        cell.key for cell in submission.cells if cell.coordinates["measured_by"] != PICTURES or cell.failed is not None
    }


def _unchecked(suite: Suite) -> list[Row]:
    """The rows whose plugins or weights this machine lacks."""
    return [
        (grid.name, kind, label) for grid in suite.grids for kind, label, spec in grid.rows(*KINDS) if not spec.module
    ]


def _draw(plan: Plan, measured: set[str], count: int | None, seed: str) -> list[str]:
    """Keys of cells to run again, drawn at random from the measured cells that can run here.

    count: number of cells; None: all. seed: text from which they are drawn. It has the file's digest and a number of
    the verifier's, so its author cannot choose the cells.
    """
    keys = list(dict.fromkeys(cell.job.key for cell in plan.cells if cell.job.key in measured and _can_run(cell)))
    if count is None or count >= len(keys):
        return keys
    return random.Random(seed).sample(keys, count)


def _check_values(
    submission: Submission, part: Plan, store: Store, failures: Mapping[str, str], report: Report
) -> Counter[Agreement]:
    """Compare the values of the cells that were run again; reports disagreements as problems and returns the number of
    values by agreement."""
    submitted = {cell.key: cell for cell in submission.cells}
    jobs = {cell.job.key: cell.job for cell in part.cells}
    quantities = {grid.name: {quantity.name: quantity for quantity in grid.quantities} for grid in part.suite.grids}
    differences = {
        places: provenance.differences(submission.provenance, places)
        for places in dict.fromkeys(tuple(submitted[key].machines) for key in jobs)
    }
    compared = sum(len(submitted[key].values) for key in jobs)
    spread = Spread(submission, compared) if any(differences.values()) else None
    for others in differences.values():
        if others:
            report.lines.append(
                "other versions or hardware, so a value may differ by the spread over seeds, unless most values agree "
                f"exactly: {'; '.join(others)}"
            )
        else:
            report.lines.append(
                "versions and processor are those of the submission, so values may differ by rounding only"
            )
    total: Counter[Agreement] = Counter()
    telling: dict[tuple[int, ...], Counter[Agreement]] = defaultdict(Counter)
    loose: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key, job in jobs.items():
        cell, failure = submitted[key], failures.get(key)
        if (cell.failed is None) != (failure is None):
            where = "in the submission" if failure is None else "here"
            report.problems.append(f"{cell.label}: failed only {where}: {cell.failed or failure}")
        elif cell.failed is not None:
            report.lines.append(f"  {cell.label}: failed in the submission and here")
        else:
            again = read_values(ensure(job, store))
            known = quantities[str(cell.coordinates["grid"])]
            places = tuple(cell.machines)
            allowed = spread if differences[places] else None
            agreements = compare(submission.values(cell), again, cell, known, allowed)
            counts = Counter(value.agreement for value in agreements)
            total += counts
            telling[places].update(value.agreement for value in agreements if value.telling)
            loose[places] += [
                f"{cell.label}: {value.label}" for value in agreements if value.agreement is Agreement.interval
            ]
            if len(jobs) <= MAX_LISTED:
                report.lines.append(f"  {cell.label}: {_in_words(counts)}")
            if wrong := [value.label for value in agreements if value.agreement is Agreement.none]:
                report.problems.append(
                    f"{cell.label}: {len(wrong)} of {len(agreements)} values do not agree, e.g. {wrong[0]}"
                )
    for places, values in loose.items():
        if values and 2 * telling[places][Agreement.exact] > telling[places].total():
            report.problems.append(
                f"{len(values)} values agree only within the spread over seeds, though most of the same machine agree "
                f"exactly, so versions and processor do not explain it, e.g. {values[0]}"
            )
    report.lines.append(f"values: {_in_words(total)}")
    return total


def _in_words(counts: Mapping[Agreement, int]) -> str:
    return ", ".join(f"{counts[how]} {how}" for how in Agreement if counts.get(how)) or "none compared"


def _verification(
    path: Path,
    cells: int,
    rerun: int,
    seed: int,
    report: Report,
    counts: Mapping[Agreement, int],
) -> Verification:
    checkout = provenance.git()
    return Verification(
        submission=file_digest(path),
        tier=Tier.reached(rerun, cells, report.of_suite),
        cells=cells,
        rerun=rerun,
        seed=seed,
        of_suite=report.of_suite,
        exact=counts[Agreement.exact],
        tolerance=counts[Agreement.tolerance],
        interval=counts[Agreement.interval],
        unchecked=report.unchecked,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        harness=importlib.metadata.version(machine.PACKAGE),
        commit=checkout and checkout["commit"],
    )
