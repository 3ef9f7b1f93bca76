"""The committed boards: made again from the committed submissions, and checked against them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from harness.files import check_folder, swapped
from harness.leaderboard import boards
from harness.submission import merge
from harness.submission.merge import Merged, Refuse
from harness.submission.tier import submission_files

MADE = (".md", ".tex", ".csv", ".png")
"""Suffixes of a board's files."""
FORMER = (".html", ".svg")
"""Suffixes of files that boards had formerly."""


def rebuild(submissions: Path, out: Path, refuse: Refuse) -> Iterator[Path]:
    """Write a board into `out` for each folder below `submissions` that holds submissions, in place of the files with
    the suffixes of boards there. Yields the boards' folders. Raises `UsageError` if a folder cannot be written."""
    for folder, loaded in _loaded(submissions, refuse):
        place = check_folder(out / folder.name)
        with swapped(place, [path.name for path in _files(place)]) as new:
            boards.write(boards.make(loaded.records), new, loaded.pictures, place)
        yield place


def stale(submissions: Path, out: Path, refuse: Refuse) -> Iterator[str]:
    """Yield the files below `out` that `rebuild` would change: text that differs, values that differ by more than
    rounding, files that are missing or left over. No picture is drawn: one that is missing or left over changes the
    board's Markdown, which links to it."""
    for folder, loaded in _loaded(submissions, refuse):
        there = _files(out / folder.name)
        pictures = [path.name for path in there if path.suffix == ".png"]
        links = [*pictures, *boards.links(loaded.pictures, out / folder.name)]
        expected = boards.texts(boards.make(loaded.records), links)
        names = {path.name for path in there if path.suffix != ".png"}
        for name in sorted(names | set(expected)):
            path = out / folder.name / name
            if name not in expected or not path.is_file() or not _same(expected[name], path):
                yield f"{folder.name}/{name}"


def _loaded(submissions: Path, refuse: Refuse) -> Iterator[tuple[Path, Merged]]:
    folders = sorted(path for path in submissions.glob("*") if path.is_dir())
    return merge.load_each({folder: files for folder in folders if (files := submission_files(folder))}, refuse)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.suffix in (*MADE, *FORMER)]


def _same(text: str, path: Path) -> bool:
    if path.suffix != ".csv":
        return path.read_text(encoding="utf-8") == text
    try:
        pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), pd.read_csv(path), rtol=1e-9)
    except AssertionError:
        return False
    return True
