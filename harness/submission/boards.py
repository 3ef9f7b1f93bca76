"""Boards made of submissions, without computing anything."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness import leaderboard
from harness.errors import UsageError
from harness.submission import read_write as submission
from harness.submission import replan
from harness.submission import tier as tiers
from harness.submission.schema import Submission
from harness.suite import read

_TEXTS = (".md", ".tex", ".html")
_MADE = (*_TEXTS, ".csv", ".png", ".svg")


@dataclass(frozen=True)
class Merged:
    """What several submissions of one board say together. records, published: as `leaderboard.make` takes them. tier:
    how far they were checked, in words. submissions: by file."""

    records: pd.DataFrame
    published: pd.DataFrame | None
    tier: str
    submissions: Mapping[Path, Submission]


def load(files: Sequence[Path]) -> Merged:
    """Submissions of one suite and version, as one board. Raises `UsageError` if they do not go together, and what
    `submission.read` raises."""
    found = {path: submission.read(path) for path in files}
    order, published = [], None
    if path := replan.installed(next(iter(found.values())).suite.name):
        suite = read(path)
        order = [grid.name for grid in suite.grids]
        published = leaderboard.read_published(path.parent / suite.published) if suite.published else None
    records = merge(list(found.values()), files, order)
    known = [tiers.tier(path) for path in files]
    told = known[:1] if len({*known}) == 1 else [f"{path.name}: {of}" for path, of in zip(files, known, strict=True)]
    return Merged(records, published, "; ".join(told), found)


def make(files: Sequence[Path], out: Path, plugins: tuple[Path, ...] = ()) -> leaderboard.Boards:
    """The board of submissions, with its contact sheets, into the folder `out`; of a sheet that several have, the
    first's. plugins: files that may hold a track. Raises what `load` raises."""
    merged = load(files)
    out.mkdir(parents=True, exist_ok=True)
    copied: set[str] = set()
    for path, of in merged.submissions.items():
        for name, _ in of.pictures():
            if name not in copied:
                shutil.copyfile(path.parent / name, out / name)
                copied.add(name)
    return leaderboard.draw(merged.records, merged.published, out, f"Tier: {merged.tier}.", plugins)


def merge(found: Sequence[Submission], names: Sequence[Path], order: Sequence[str] = ()) -> pd.DataFrame:
    """The records of all submissions, a cell that two of them have alike once, as the first has it; raises `UsageError`
    if they are of different suites, versions or protocols, or tell different figures of one cell. Costs may differ.
    order: of grids; others follow as they come."""
    first = found[0].suite
    protocols: dict[str, tuple[str, dict[str, Any]]] = {}
    cells: dict[str, tuple[Path, list[Any]]] = {}
    parts: list[pd.DataFrame] = []
    for of, name in zip(found, names, strict=True):
        suite = of.suite
        if (suite.name, suite.version) != (first.name, first.version):
            raise UsageError(
                f"{name} is of {suite.name} version {suite.version}, {names[0]} of {first.name} version "
                f"{first.version}: a board is of one suite and version"
            )
        for grid in suite.grids:
            if protocols.setdefault(grid.name, (grid.track, grid.protocol)) != (grid.track, grid.protocol):
                raise UsageError(f"{name} has another protocol of grid '{grid.name}' than a submission before it")
        for label, told in _told(of).items():
            before, other = cells.setdefault(label, (name, told))
            if told != other:
                raise UsageError(f"{name} and {before} differ in the cell {label}: leave one of them out")
        parts.append(_beyond(of.records(), parts))
    records = pd.concat(parts, ignore_index=True)
    places = {grid: place for place, grid in enumerate(dict.fromkeys([*order, *records["grid"]]))}
    return records.sort_values("grid", key=lambda grids: grids.map(places), kind="stable", ignore_index=True)


def _told(of: Submission) -> dict[str, list[Any]]:
    """What is told of each cell that has figures: the keys of its jobs, and their figures less costs, or reasons."""
    told: dict[str, list[Any]] = {}
    for cell in of.cells:
        if cell.failed is not None:
            told.setdefault(cell.label, []).append([cell.key, cell.failed])
        elif figures := [figure for figure in of.figures(cell) if not of.is_cost(cell, figure)]:
            told.setdefault(cell.label, []).append([cell.key, figures])
    return told


def _beyond(records: pd.DataFrame, before: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Those of cells that none of the records before has."""
    at = ["grid", "task", "defense", "attacker", "seed", "key"]
    known = {row for of in before for row in of[at].astype("string").fillna("").itertuples(index=False, name=None)}
    own = records[at].astype("string").fillna("").itertuples(index=False, name=None)
    return records[[row not in known for row in own]]


def rebuild(submissions: Path, out: Path) -> list[Path]:
    """A board in `out` for each folder of `submissions`, whose submissions it is made of, in place of what lies there;
    the boards' folders."""
    made = []
    for folder in sorted(path for path in submissions.glob("*") if path.is_dir()):
        if of := tiers.files(folder):
            for path in (out / folder.name).glob("*"):
                if path.suffix in _MADE:
                    path.unlink()
            make(of, out / folder.name)
            made.append(out / folder.name)
    return made


def stale(submissions: Path, boards: Path) -> list[str]:
    """What in `boards` is not what `rebuild` makes of `submissions`: text that differs, figures that differ by more
    than rounding, and pictures that are missing, left over or, of contact sheets, others. (Curves are drawn a little
    differently by every version of the drawing library.)"""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for made in rebuild(submissions, Path(temporary)):
            of = [submission.read(path) for path in tiers.files(submissions / made.name)]
            sheets = {name for one in of for name, _ in one.pictures()}
            there = {path.name for path in (boards / made.name).glob("*") if path.suffix in _MADE}
            for name in sorted(there.union(path.name for path in made.iterdir())):
                exactly = name in sheets or name.endswith(_TEXTS)
                if not _same(made / name, boards / made.name / name, exactly):
                    found.append(f"{made.name}/{name}")
    return found


def _same(new: Path, old: Path, exactly: bool) -> bool:
    if not (new.is_file() and old.is_file()):
        return False
    if exactly:
        return new.read_bytes() == old.read_bytes()
    if new.suffix != ".csv":
        return True
    try:
        pd.testing.assert_frame_equal(pd.read_csv(new), pd.read_csv(old), rtol=1e-9)
    except AssertionError:
        return False
    return True
