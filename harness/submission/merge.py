"""Merges submissions of one suite and version into records."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.files import user_path
from harness.plugin import KINDS
from harness.ranking import covering
from harness.records import Records, frame
from harness.submission import read_write
from harness.submission.local_suite import installed_suite, plugin_files
from harness.submission.schema import Cell, Submission
from harness.submission.tier import Tier, Verification, verification
from harness.suite import Grid, Suite, other_seeds, rows_left_out
from harness.suite_file import read


@dataclass(frozen=True)
class Merged:
    """Submissions of one suite and version.

    records: the records of all their cells. provenance: by file name, what was submitted, and where, when and by what
    the values were computed. pictures: the pictures in the folders of the submissions; of two pictures with one name
    the first submission's.
    files: the files of the submissions.
    """

    records: Records = field(repr=False)
    provenance: Mapping[str, str]
    pictures: Sequence[Path]
    files: Sequence[Path]


def load(files: Sequence[Path], plugins: Sequence[Path] = ()) -> Merged:
    """Read submissions of one suite and version and merge them.

    files: files of the submissions; a file that is given twice counts once. plugins: plugin files of this machine, one
    of which may contain the suite's track. The suite of the records has this machine's published values and plugin
    files. Raises `UsageError` if the submissions cannot be merged (see `merge`), and the errors of `read_write.read`.
    """
    files = list({path.resolve(): path for path in files}.values())
    submissions = {path: read_write.read(path) for path in files}
    records = merge(submissions)
    verifications = {path: verification(path) for path in submissions}
    tiers = {path: found.summary if found else str(Tier.self_reported) for path, found in verifications.items()}
    texts = [f"{path.name}: {text}" for path, text in tiers.items()]
    text = next(iter(tiers.values())) if len({*tiers.values()}) == 1 else "; ".join(texts)
    suite, installed = records.suite, installed_suite(records.suite.name)
    local: dict[str, Any] = {"plugins": tuple(plugin_files(suite.name, plugins))}
    if installed is not None:
        file = read(installed)
        local["published"] = user_path(file.published, installed.parent) if file.published else None
        order = {grid.name: place for place, grid in enumerate(file.grids)}
        local["grids"] = sorted(suite.grids, key=lambda grid: order.get(grid.name, len(order)))
    suite = suite.model_copy(update=local)
    places = {grid.name: place for place, grid in enumerate(suite.grids)}
    rows = records.frame.sort_values("grid", key=lambda names: names.map(places), kind="stable", ignore_index=True)
    pictures: dict[str, Path] = {}
    for path, submission in submissions.items():
        for name, _ in submission.pictures():
            pictures.setdefault(name, path.parent / name)
    provenance = {
        path.name: "; ".join(part.summary for part in (submission.method, submission.provenance) if part is not None)
        for path, submission in submissions.items()
    }
    unverified = frozenset(_unverified(submissions, verifications))
    records = replace(records, suite=suite, frame=rows, tier=text, unverified=unverified)
    return Merged(records, provenance, list(pictures.values()), files)


def merge(submissions: Mapping[Path, Submission]) -> Records:
    """The records of all `submissions`, which are given by file. A cell in several submissions counts once, with the
    values of the first one.

    The suite has the grids, tasks, rows and seeds of all. Raises `UsageError` if the submissions differ in suite,
    version or format, in the protocol, ranking, ensemble, threat models, sweeps or a row's settings of a grid, or in
    the keys or values of a cell; only seconds and memory of a cell may differ.
    """
    first_path, first = next(iter(submissions.items()))
    suite = first.suite
    cells: dict[tuple[Any, ...], tuple[Path, list[Any]]] = {}
    rows: list[Mapping[str, Any]] = []
    for path, submission in submissions.items():
        if submission.older != first.older:
            raise UsageError(
                f"{path} and {first_path} have different formats, whose keys cannot be compared: make a board of each"
            )
        suite = _merge_suites(suite, submission.suite, first_path, path)
        for coordinates, alike in _by_coordinates(submission).items():
            content = [
                [cell.key, cell.failed, submission.comparable_values(cell)]
                for cell in alike
                if cell.kind is not None or cell.failed is not None
            ]
            before, other = cells.setdefault(coordinates, (path, content))
            if content != other:
                raise UsageError(f"{path} and {before} differ in the cell {alike[0].label}: leave one of them out")
            if before is path:
                rows += submission.rows(alike)
    return Records(suite, frame(rows), older=first.older)


def _unverified(
    submissions: Mapping[Path, Submission], verifications: Mapping[Path, Verification | None]
) -> Iterator[tuple[str, str, str]]:
    """The rows of which no cell was run again: those whose plugins a verification lacked, and the defenses of cells
    that are in no verified submission; none if no submission is verified."""
    ran = {path: found for path, found in verifications.items() if found is not None and found.rerun}
    checked = {cell.key for path in ran for cell in submissions[path].cells}
    for path, submission in submissions.items() if ran else ():
        if path in ran:
            yield from ran[path].unchecked
        else:
            rest = (cell.coordinates for cell in submission.cells if cell.key not in checked)
            yield from {(str(at["grid"]), "defense", str(at["defense"])) for at in rest if at.get("defense")}


def _by_coordinates(submission: Submission) -> dict[tuple[Any, ...], list[Cell]]:
    cells: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in submission.cells:
        given = ((name, value) for name, value in cell.coordinates.items() if value is not None)
        cells[tuple(sorted(given))].append(cell)
    return cells


def _merge_suites(suite: Suite, other: Suite, first: Path, path: Path) -> Suite:
    """The suite with the further grids, tasks, rows and seeds of `other`, the suite of the submission `path`. first:
    file of the first submission."""
    if (suite.name, suite.version) != (other.name, other.version):
        raise UsageError(
            f"{path} is of {other.name} version {other.version}, {first} of {suite.name} version {suite.version}: a "
            "board is of one suite and version"
        )
    if suite.tuning != other.tuning:
        raise UsageError(f"{path}: tuning differs from that in a submission before it")
    grids = {grid.name: grid for grid in suite.grids}
    for grid in other.grids:
        grids[grid.name] = _merge_grids(grids[grid.name], grid, path) if grid.name in grids else grid
    return suite.model_copy(update={"grids": list(grids.values())})


def _merge_grids(grid: Grid, other: Grid, path: Path) -> Grid:
    """The grid with the further tasks, rows and seeds of `other`, the grid of the submission `path`."""

    def check(same: bool, what: str) -> None:
        if not same:
            raise UsageError(f"{path}: {what} in grid '{grid.name}' differs from that in a submission before it")

    check((grid.track, grid.protocol) == (other.track, other.protocol), "protocol")
    check(grid.reference.identity == other.reference.identity, "reference")
    check(grid.ranking == other.ranking, "ranking")
    check(grid.ensemble == other.ensemble, "ensemble of attackers")
    update: dict[str, Any] = {}
    for kind in KINDS:
        ours, theirs = getattr(grid, f"{kind}s"), getattr(other, f"{kind}s")
        for label in ours.keys() & theirs.keys():
            check(ours[label].identity == theirs[label].identity, f"{kind} '{label}'")
        update[f"{kind}s"] = ours | theirs
    for sweep in grid.sweeps.keys() & other.sweeps.keys():
        check(grid.sweeps[sweep] == other.sweeps[sweep], f"sweep of '{sweep}'")
    models = dict(grid.threat_models)
    for name, model in other.threat_models.items():
        before = models.setdefault(name, model)
        models[name] = before.model_copy(update={"attackers": [*before.attackers, *model.attackers]})
        check(models[name].model_copy(update={"attackers": model.attackers}) == model, f"threat model '{name}'")
    for task in grid.members.keys() & other.members.keys():
        check(grid.members[task] == other.members[task], f"list of members of task '{task}'")
    tasks = grid.tasks + [task for task in other.tasks if task not in grid.tasks]
    check(len(tasks) == len(grid.members | other.members), "content of a task")
    quantities = {quantity.name: quantity for quantity in grid.quantities}
    for quantity in other.quantities:
        known = quantities.setdefault(quantity.name, quantity)
        check(known.identity == quantity.identity, f"definition of {quantity.name}")
    merged = grid.model_copy(
        update={
            **update,
            "tasks": tasks,
            "seeds": sorted({*grid.seeds, *other.seeds}),
            "members": grid.members | other.members,
            "sweeps": grid.sweeps | other.sweeps,
            "threat_models": covering(models, update["attackers"]),
            "quantities": list(quantities.values()),
            "notes": list(dict.fromkeys([*grid.notes, *other.notes])),
        }
    )
    return merged.model_copy(update={"changed": _merge_changes(merged, (grid, other))})


def _merge_changes(merged: Grid, parts: Sequence[Grid]) -> list[str]:
    """The changed rows of all parts, and the rows and seeds of the suite file that the merged grid still leaves out."""
    changes = dict.fromkeys(change for grid in parts for change in grid.changed)
    rows = [change for change in changes if change.startswith(tuple(f"{kind}s." for kind in KINDS))]
    wider = merged.model_copy(update={"changed": rows})
    narrowed = (_renewed(change, wider) for change in changes if change not in rows)
    return [*rows, *dict.fromkeys(change for change in narrowed if change is not None)]


def _renewed(change: str, grid: Grid) -> str | None:
    """The change of a part (see `harness.suite.rows_left_out` and `other_seeds`) as it is for the merged `grid`; None
    if the grid has all rows or seeds of the suite file."""
    if match := re.fullmatch(r"\d+ of (\d+) (defense|attacker|task)s", change):
        given, kind = int(match[1]), match[2]
        if kind == "task":
            return rows_left_out(len(grid.tasks), given, kind)
        added = [f"{kind}s.{label}. added" in grid.changed for label in getattr(grid, f"{kind}s")]
        return rows_left_out(added.count(False), given, kind)
    if match := re.fullmatch(r"seeds .* instead of ([\d, ]+)", change):
        return other_seeds(grid.seeds, [int(seed) for seed in match[1].split(", ")])
    return change
