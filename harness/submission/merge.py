"""Merges submissions of one suite and version into records."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from harness.errors import ImmuneBenchError, UsageError
from harness.execution.failure import line
from harness.files import user_path
from harness.plugin import KINDS
from harness.ranking import covering
from harness.records import Records, frame
from harness.submission import read_write
from harness.submission.local_suite import installed_suite, plugin_files
from harness.submission.schema import COORDINATES, Cell, Submission, check_expanded
from harness.submission.tier import Tier, Verification, verification
from harness.suite import Grid, Suite, other_seeds, rows_left_out
from harness.suite_file import read

RERUN = {Tier.spot_checked, Tier.reproduced}
"""Tiers of submissions of which cells were run again."""
Refuse = Callable[[ImmuneBenchError], None]
"""Called with the error of a folder whose submissions cannot be read, for which no board is made."""


@dataclass(frozen=True)
class Merged:
    """Submissions of one suite and version.

    records: the records of all their cells. provenance: by file name, what was submitted, and where, when and by what
    the values were computed. pictures: the pictures in the folders of the submissions; of two pictures with one name
    the first submission's.
    files: the files of the submissions, without those that were left out.
    """

    records: Records = field(repr=False)
    provenance: Mapping[str, str]
    pictures: Sequence[Path]
    files: Sequence[Path]


def load(files: Sequence[Path], plugins: Sequence[Path] = ()) -> Merged:
    """Read submissions of one suite and version and merge them.

    A submission that does not go together with those before it (see `_Union.add`) is left out, and a line to standard
    error names it; those that were checked further come before the others, so that they stay. files: files of the
    submissions; a file that is given twice counts once. plugins: plugin files of this machine, one of which may contain
    the suite's track. The suite of the records has this machine's published values and plugin files. Raises the errors
    of `read_write.read` and `tier.verification`.
    """
    files = list({path.resolve(): path for path in files}.values())
    verifications = {path: verification(path) for path in files}
    files.sort(key=lambda path: -list(Tier).index(_tier(verifications[path])))
    submissions = {path: read_write.read(path) for path in files}
    union = _Union(submissions[files[0]].suite)
    for path in files:
        try:
            union.add(path, submissions[path])
        except UsageError as error:
            print(f"{path} is left out: {line(error)}", file=sys.stderr)
            del submissions[path]
    suite, installed = union.suite, installed_suite(union.suite.name)
    local: dict[str, Any] = {"plugins": tuple(plugin_files(suite.name, plugins))}
    if installed is not None:
        file = read(installed)
        local["published"] = user_path(file.published, installed.parent) if file.published else None
        order = {grid.name: place for place, grid in enumerate(file.grids)}
        local["grids"] = sorted(suite.grids, key=lambda grid: order.get(grid.name, len(order)))
    suite = suite.model_copy(update=local)
    rows = frame(union.rows())
    if len(suite.grids) > 1:
        places = {grid.name: place for place, grid in enumerate(suite.grids)}
        rows = rows.sort_values("grid", key=lambda names: names.map(places), kind="stable", ignore_index=True)
    pictures: dict[str, Path] = {}
    for path, submission in submissions.items():
        for name, _ in submission.pictures():
            pictures.setdefault(name, path.parent / name)
    provenance = {
        path.name: "; ".join(part.summary for part in (submission.method, submission.provenance) if part is not None)
        for path, submission in submissions.items()
    }
    older = any(submission.older for submission in submissions.values())
    records = Records(suite, rows, _checked(submissions, verifications), older, **_trust(submissions, verifications))
    return Merged(records, provenance, list(pictures.values()), list(submissions))


def load_each(
    folders: Mapping[Path, Sequence[Path]], refuse: Refuse, plugins: Sequence[Path] = ()
) -> Iterator[tuple[Path, Merged]]:
    """Yield each folder with its submissions merged (see `load`), but those that cannot be read.

    folders: the files of the submissions by folder. plugins: as for `load`.
    """
    for folder, files in folders.items():
        try:
            loaded = load(files, plugins)
        except ImmuneBenchError as error:
            refuse(error)
        else:
            yield folder, loaded


def _tier(found: Verification | None) -> Tier:
    return found.tier if found else Tier.self_reported


def _checked(submissions: Mapping[Path, Submission], verifications: Mapping[Path, Verification | None]) -> str:
    """How far the submissions were checked, as text for a board, which names those that were left out too."""
    found = {path: verifications[path] for path in submissions}
    texts = {path: str(Tier.self_reported) if one is None else one.summary for path, one in found.items()}
    same = len({*texts.values()}) == 1
    parts = [*texts.values()][:1] if same else [f"{path.name}: {text}" for path, text in texts.items()]
    parts += [f"{path.name}: left out, for it contradicts another" for path in verifications if path not in submissions]
    return "; ".join(parts)


def _trust(submissions: Mapping[Path, Submission], verifications: Mapping[Path, Verification | None]) -> dict[str, Any]:
    """The fields of records that say how far each row was checked; none if no row was checked less than another. A row
    whose plugin a verification lacked, and a cell that is in no submission of which cells were run again, were not."""
    ran = [path for path in submissions if _tier(verifications[path]) in RERUN]
    checked = {cell.key for path in ran for cell in submissions[path].cells}
    tiers: dict[tuple[str, str, str], set[Tier]] = defaultdict(set)
    for path, submission in submissions.items() if ran else ():
        found = verifications[path]
        unchecked = dict.fromkeys(found.unchecked if found else (), Tier.schema_valid)
        for cell in submission.cells:
            if path in ran or cell.key not in checked:
                at = cell.coordinates
                rows = [(str(at["grid"]), kind, str(at[kind])) for kind in ("defense", "attacker") if at.get(kind)]
                for row in rows:
                    tiers[row].add(unchecked.get(row, _tier(found)))
    untrusted = frozenset(row for row, reached in tiers.items() if not reached & RERUN)
    partly = frozenset(row for row, reached in tiers.items() if row[1] == "defense" and reached - RERUN)
    if not untrusted | partly:
        return {}
    texts = {row: "; ".join(tier for tier in reversed(Tier) if tier in reached) for row, reached in tiers.items()}
    return {"tiers": texts, "unverified": untrusted | partly, "untrusted": untrusted}


_Place = tuple[Any, ...]
"""Coordinates of a cell, in one order."""


class _Union:
    """The cells of submissions of one suite and version, which are added one after the other. suite: with the grids,
    tasks, rows and seeds of all."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._first: tuple[Path, Submission] | None = None
        self._cells: dict[_Place, tuple[Path, Submission, list[Cell]]] = {}

    def add(self, path: Path, submission: Submission) -> None:
        """Add the submission in the file `path`; a cell in several submissions counts once, with the values of the
        first one.

        Raises `UsageError`, and adds nothing, if it differs from those before it in suite, version or format, in the
        protocol, ranking, ensemble, threat models, sweeps or a row's settings of a grid, or in the keys or values of a
        cell; only seconds and memory of a cell may differ. So it does if the board would be too large.
        """
        first_path, first = self._first or (path, submission)
        if submission.older != first.older:
            raise UsageError(f"{path} and {first_path} have different formats, whose keys cannot be compared")
        suite = _merge_suites(self.suite, submission.suite, first_path, path)
        new = {}
        for place, cells in _by_place(submission).items():
            before, other, known = self._cells.get(place, (path, submission, cells))
            if known is cells:
                new[place] = (path, submission, cells)
            elif _content(submission, cells) != _content(other, known):
                raise UsageError(f"{path} and {before} differ in the cell {cells[0].label}")
        every = chain.from_iterable(cells for _, _, cells in (*self._cells.values(), *new.values()))
        try:
            check_expanded(suite, every)
        except ValueError as error:
            raise UsageError(f"{path}, with the submissions before it: {error}") from None
        self._first = first_path, first
        self._cells |= new
        self.suite = suite

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows of the records of all cells."""
        for _, submission, cells in self._cells.values():
            yield from submission.rows(cells)


def _by_place(submission: Submission) -> dict[_Place, list[Cell]]:
    cells: dict[_Place, list[Cell]] = {}
    for cell in submission.cells:
        cells.setdefault(tuple(cell.coordinates.get(name) for name in COORDINATES), []).append(cell)
    return cells


def _content(submission: Submission, cells: Sequence[Cell]) -> list[Any]:
    """What must be the same wherever the cells are."""
    return [
        [cell.key, cell.failed, submission.comparable_values(cell)]
        for cell in cells
        if cell.kind is not None or cell.failed is not None
    ]


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
