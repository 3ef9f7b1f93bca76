"""The folder of a run's results, or of a board: it belongs to one suite, and a later run or board of this suite
replaces the files in it."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from harness import files
from harness.errors import ImmuneBenchError, UsageError
from harness.plan import Plan
from harness.submission import read_write
from harness.submission.schema import picture_name
from harness.suite import Suite
from harness.track import PICTURES

RUN = "run.json.gz"
"""The submission of a run; `submit` checks it for names of this machine's folders."""
RECORDS = "records.parquet"
BOARD = ("leaderboard.md", "leaderboard.tex", "leaderboard.csv", "rows.csv", "standings.csv", "comparisons.csv")
"""The files of a board besides its plots."""


def claim(folder: Path, suite: Suite) -> Path:
    """Check that results of `suite` may be written into `folder`, which is created, and return it. Raises `UsageError`
    if the folder cannot be written, holds results of another suite, or has other files with the names of results."""
    for grid in suite.grids:
        files.check_name(f"{grid.name}_")
    if (folder / RUN).is_file() and files.contents(folder)[0] is None:
        _adopt(folder)
    return files.claim(folder, _owner(suite), [RUN, RECORDS, *BOARD])


def claim_for(plan: Plan, folder: Path, force: bool = False) -> Path:
    """`claim` the folder `folder` for the run of `plan`; raises `UsageError` also for pictures whose names are too long
    or equal and, without `force`, if the folder has a run of other rows, tasks, seeds or settings."""
    pictures = [cell.coordinates for cell in plan.cells if cell.coordinates["measured_by"] == PICTURES]
    for name, count in Counter(picture_name(coordinates, "") for coordinates in pictures).items():
        files.check_name(name)
        if count > 1:
            raise UsageError(f"{count} pictures would be called {name}….png: change the labels of tasks or rows")
    claim(folder, plan.suite)
    if not force and (folder / RUN).is_file() and (other := _other(folder / RUN, plan.suite)):
        raise UsageError(f"{folder} holds {other}: --force replaces it, --out DIR writes elsewhere")
    return folder


def _other(run: Path, suite: Suite) -> str | None:
    """What the file `run` of an earlier run is, if it is no run of `suite`; None if it is one."""
    try:
        earlier = read_write.read(run).suite
    except ImmuneBenchError:
        return "a run that cannot be read"
    if _content(earlier) == _content(suite):
        return None
    if earlier.version != suite.version:
        return f"a run of version {earlier.version}, not {suite.version}"
    changed = "; ".join(earlier.changed)
    return f"a run of another part of the suite ({changed})" if changed else "a run of other grids, or of all of them"


def _content(suite: Suite) -> list[Any]:
    """What a run of `suite` measures, without the code of plugins and paths."""
    return [
        suite.version,
        [
            [grid.name, list(grid.members), grid.seeds, grid.protocol.get("steps"), grid.changed]
            + [[kind, label, spec.call] for kind, label, spec in grid.rows("defense", "attacker", "metric")]
            for grid in suite.grids
        ],
    ]


def replacing(folder: Path, suite: Suite, *, run: bool) -> AbstractContextManager[Path]:
    """Write results of `suite` into `folder`, see `files.replacing`. run: replace all results there; False: the board
    only, not the submission of a run, its records and pictures."""
    names = files.contents(folder)[1]
    kept = () if run else [name for name in names if name in (RUN, RECORDS) or "__" in name]
    return files.replacing(folder, _owner(suite), kept)


def _owner(suite: Suite) -> str:
    return f"suite {suite.name}"


def _adopt(folder: Path) -> None:
    """Record the files of a run in `folder` that an earlier harness wrote."""
    try:
        submission = read_write.read(folder / RUN)
    except ImmuneBenchError as error:
        raise UsageError(
            f"{folder} holds a run that cannot be read, choose another folder, or delete this one: {error}"
        ) from None
    names = [name for name in (RUN, RECORDS, *BOARD) if (folder / name).is_file()]
    names += [name for name, _ in submission.pictures()]
    files.record(folder, _owner(submission.suite), names)
