"""Checking a submission: its form and digests, the keys that its plan has here, and cells run again.

Nothing of a submission is unpickled or run: what runs are the plugins that are installed here, if their sources are
those of the submission. Only with trust are plugin files that came with it imported.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import random
import secrets
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import ranking as protection
from harness import records, suite
from harness.errors import ImmuneBenchError, UsageError
from harness.execution import scheduler as runner
from harness.execution.executors import Executor
from harness.execution.scheduler import ensure
from harness.plan import Cell, Plan, ancestry, make
from harness.store import Store, default_root, file_digest
from harness.submission import provenance, replan
from harness.submission import read_write as submission
from harness.submission.agreement import Agreement, Spread, compare
from harness.submission.pack import OF_SUITE, stages
from harness.submission.schema import InvalidSubmission, Submission
from harness.submission.tier import Tier, Verification

SHOWN = 20
"""So many cells are told of one by one."""


@dataclass
class Report:
    """What a check found. problems: what does not hold; the rest is for people, a line each."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    of_suite: tuple[int, int] | None = None
    """How many cells of the installed suite it has, and of how many."""
    verification: Verification | None = None
    """None if something does not hold."""


def verify(
    path: Path,
    cells: int | None = 5,
    *,
    seed: int | None = None,
    trust: bool = False,
    store: Path | None = None,
    files: Path | None = None,
    executor: Callable[[], Executor],
    progress: runner.Progress | None = None,
    timeout: float | None = None,
) -> Report:
    """Check a submission.

    cells: so many, drawn at random by `seed`, are run again; None: all. trust: import and run plugin files that it
    brings along. store: keeps what is computed, by default nothing does. files: the folder that files which its suite
    names are relative to, by default the installed suite's.

    Raises `UsageError` if it cannot be checked by this harness or so, `InvalidSubmission` if it is none.
    """
    if store is not None and store.resolve() == default_root().resolve():
        raise UsageError("verify wants a store of its own: what runs have left in yours may be what was submitted")
    found = submission.read(path)
    report = Report()
    failed = sum(cell.failed is not None for cell in found.cells)
    report.lines.append(f"{found.suite.name} version {found.suite.version}, {len(found.cells)} cells, {failed} of them "
                        "failed: form and digests hold")  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        plugins = replan.Plugins(found, Path(temporary) if trust else None)
        plan = _plan(found, files or _folder(found), plugins, report)
        if plan is not None and not report.problems:
            drawn, seed = _draw(plan, _measured(found), cells, seed)
            known = len(_measured(found))
            report.lines += [f"skipped: {reason}" for reason in plugins.reasons]
            counts: Counter[Agreement] = Counter()
            if drawn:
                report.lines.append(f"run again: {len(drawn)} of {known} cells, drawn by --seed {seed}")
                where = Store(store or Path(temporary) / "store")
                part = _part(plan, drawn)
                holes = runner.run(part, where, executor(), progress, timeout=timeout)
                counts = _compare(found, part, where, holes, report)
            if not report.problems:
                report.verification = _verification(path, known, len(drawn), seed, report.of_suite, counts)
    return report


def _folder(found: Submission) -> Path:
    """Where the installed suite of that name lies."""
    installed = replan.installed(found.suite.name)
    return installed.parent if installed else Path.cwd()


def _plan(found: Submission, folder: Path, plugins: replan.Plugins, report: Report) -> Plan | None:
    """The plan made here, and whether the submission's cells are its cells; None if it is not worth making."""
    for grid in found.suite.grids:
        cells = sum(cell.at["grid"] == grid.name for cell in found.cells)
        if len(grid.tasks) * len(grid.defenses) * max(len(grid.attackers), 1) > cells:
            report.problems.append(f"grid '{grid.name}' lacks cells: it has {cells}, fewer than tasks times rows")
            return None
    try:
        plan = make(replan.suite_of(found, folder, plugins.find))
    except ImmuneBenchError:
        raise
    except Exception as error:  # a track trusts what suite files say; this may say anything
        raise InvalidSubmission(f"no plan can be made of its suite: {type(error).__name__}: {error!s:.200}") from None
    here = stages(plan)
    for stage, version in found.provenance.stages.items():
        if here.get(stage, version) != version:
            made_by = found.provenance.git.commit if found.provenance.git else found.provenance.harness
            raise UsageError(f"stage {stage} has version {version} in the submission and {here[stage]} here: check it "
                             f"with the harness that made it ({made_by})")  # fmt: skip
    averaging = _averaging(plan.suite)
    for track, known in averaging.items():
        for name, how in known.items():
            told = found.metrics.get(track, {}).get(name)
            if told is None or told.model_dump() != how:
                report.problems.append(f"metric '{name}' has another unit or scale here")
    if protection.judging(plan) != found.judging:
        report.problems.append("its figures are judged otherwise here")
    planned = {(_identity(cell.coordinates), cell.job.key) for cell in plan.cells}
    submitted = {(_identity(found.coordinates(cell)), cell.key) for cell in found.cells}
    report.problems += _differences(planned, submitted)
    if planned == submitted:
        report.lines.append("its cells and their keys are those that its suite's content gives here")
        _as_installed(found, plan, _measured(found), report)
    return plan


def _averaging(of: suite.Suite) -> records.Averaging:
    """How the metrics that are known here are read."""
    known = [
        replace(grid, metrics={n: spec for n, spec in grid.metrics.items() if not isinstance(spec, replan.Claimed)})
        for grid in of.grids
    ]
    return records.averaging(replace(of, grids=tuple(known)))


Identity = tuple[tuple[str, Any], ...]
"""A cell's coordinates, in an order that is always the same."""


def _identity(at: Mapping[str, Any], calls: bool = True) -> Identity:
    """Of a cell, with the calls of its plugins or without."""
    order = [name for name in records.SCHEMA if name not in OF_SUITE and (calls or not name.endswith("_call"))]
    return tuple((name, at[name]) for name in order if at.get(name) is not None)


def _label(identity: Identity) -> str:
    return " · ".join(str(value) for name, value in identity if not name.endswith("_call"))


def _differences(planned: set[tuple[Identity, str]], submitted: set[tuple[Identity, str]]) -> Iterator[str]:
    """How the cells of a submission are not those of its plan."""
    cells, told = {cell for cell, _ in planned}, {cell for cell, _ in submitted}
    for what, differing in (
        ("cells that its plan has are missing", cells - told),
        ("cells are there that its plan has not", told - cells),
        ("cells have another key here (the configuration was changed, or it is another data set or base model here)",
         {cell for cell, _ in submitted - planned} & cells),
    ):  # fmt: skip
        if differing:
            yield f"{what}: {len(differing)}, e.g. {min(map(_label, differing))}"


def _as_installed(found: Submission, plan: Plan, measured: set[str], report: Report) -> None:
    """Whether it is the suite that is installed under that name and version, or rows of it, and perhaps others."""
    name, _, base = found.suite.name.partition("@")
    file = replan.installed(found.suite.name)
    if file is None or suite.read(file).version != found.suite.version:
        report.lines.append(f"suite {name} version {found.suite.version} is not installed here: its content is the "
                            "submission's own")  # fmt: skip
        return
    if suite.read(file).tuning != found.tuning:
        report.problems.append(f"{name} was tuned otherwise than it says")
    installed, own = _keys(make(suite.load(name, base=base or None)).cells), _keys(filter(_runnable, plan.cells))
    shared = sum(len(keys & installed.get(at, set())) for at, keys in own.items())
    # At one place there may be several cells: of a further metric, say, or a contact sheet, which shows all rows.
    other = [_label(at) for at, keys in own.items() if at in installed and keys & measured and not keys & installed[at]]
    if other:
        report.problems.append(f"cells have another protocol or other settings than {name} version "
                               f"{found.suite.version} has: {len(other)}, e.g. {min(other)}")  # fmt: skip
    total = sum(len(keys) for keys in installed.values())
    report.of_suite = (shared, total)
    report.lines.append(f"it has {shared} of the {total} cells of the suite, and {len(plan.cells) - shared} others")


def _keys(cells: Iterable[Cell]) -> dict[Identity, set[str]]:
    """By coordinates without calls."""
    found: dict[Identity, set[str]] = defaultdict(set)
    for cell in cells:
        found[_identity(cell.coordinates, calls=False)].add(cell.job.key)
    return found


def _runnable(cell: Cell) -> bool:
    return not any(isinstance(job.plugin, replan.Claimed) for job in ancestry(cell.job))


def _measured(found: Submission) -> set[str]:
    """Keys of the cells that have figures, or should; a contact sheet has none."""
    return {cell.key for cell in found.cells if cell.values or cell.failed is not None}


def _draw(plan: Plan, found: set[str], count: int | None, seed: int | None) -> tuple[list[str], int]:
    """Keys of cells that can be run again, drawn at random, and the seed of the draw."""
    seed = secrets.randbelow(2**32) if seed is None else seed
    keys = list(dict.fromkeys(cell.job.key for cell in plan.cells if cell.job.key in found and _runnable(cell)))
    if count is None or count >= len(keys):
        return keys, seed
    return random.Random(seed).sample(keys, count), seed


def _part(plan: Plan, keys: Collection[str]) -> Plan:
    """The plan of these cells alone."""
    cells = tuple(cell for cell in plan.cells if cell.job.key in set(keys))
    needed = {job.key for cell in cells for job in ancestry(cell.job)}
    return Plan(plan.suite, cells, {key: job for key, job in plan.jobs.items() if key in needed})


def _compare(
    found: Submission, part: Plan, store: Store, holes: Mapping[str, str], report: Report
) -> Counter[Agreement]:
    """How the figures of the cells that were run again agree; what does not is a problem."""
    averaging = _averaging(part.suite)
    told = {cell.key: cell for cell in found.cells}
    jobs = {cell.job.key: cell for cell in part.cells}
    spread = Spread(found, averaging, sum(len(told[key].values) for key in jobs))
    total: Counter[Agreement] = Counter()
    for key, planned in jobs.items():
        cell, hole = told[key], holes.get(key)
        if (cell.failed is None) != (hole is None):
            where = "there" if hole is None else "here"
            report.problems.append(f"{cell.label}: failed {where} only: {cell.failed or hole}")
        elif cell.failed is not None:
            report.lines.append(f"  {cell.label}: failed there and here")
        else:
            again = records.read_figures(ensure(planned.job, store, part.suite.plugins))
            agreements = compare(found.figures(cell), again, cell, planned.coordinates["track"], averaging, spread)
            counts = Counter(agreement for _, agreement in agreements)
            total += counts
            if len(jobs) <= SHOWN:
                report.lines.append(f"  {cell.label}: {_in_words(counts)}")
            if wrong := [label for label, agreement in agreements if agreement is Agreement.none]:
                report.problems.append(
                    f"{cell.label}: {len(wrong)} of {len(agreements)} figures do not agree, e.g. {wrong[0]}"
                )
    report.lines.append(f"figures: {_in_words(total)}")
    return total


def _in_words(counts: Mapping[Agreement, int]) -> str:
    return ", ".join(f"{counts[how]} {how}" for how in Agreement if counts.get(how)) or "none"


def _verification(
    path: Path,
    cells: int,
    rerun: int,
    seed: int,
    of_suite: tuple[int, int] | None,
    counts: Mapping[Agreement, int],
) -> Verification:
    checkout = provenance.git()
    return Verification(
        submission=file_digest(path),
        tier=Tier.reached(rerun, cells),
        cells=cells,
        rerun=rerun,
        seed=seed,
        of_suite=of_suite,
        exact=counts[Agreement.exact],
        tolerance=counts[Agreement.tolerance],
        interval=counts[Agreement.interval],
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        harness=importlib.metadata.version(provenance.PACKAGE),
        commit=checkout and checkout["commit"],
    )
