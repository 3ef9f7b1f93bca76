"""Submissions, and the submissions that runs leave in their folders, as records to make boards of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.leaderboard import published
from harness.leaderboard.merge import merge
from harness.records import Records
from harness.suite import read as read_suite

RUN = "run.json.gz"
"""The submission that a run leaves in its folder."""


@dataclass(frozen=True)
class Submitted:
    """One submission or more, as one board shows them. provenance: by file name, where, when and by what the values
    were computed. sheets: the contact sheets, as files. files: the submissions."""

    records: Records = field(repr=False)
    provenance: Mapping[str, str]
    sheets: Sequence[Path]
    files: Sequence[Path]


def read(path: Path) -> Submitted:
    """One submission, checked in form; raises what `harness.submission.read_write.read` raises."""
    from harness.submission import read_write, tier

    submission = read_write.read(path)
    records: Records = submission.records()
    sheets = [path.parent / name for name, _ in submission.pictures()]
    checked = Records(records.suite, records.frame, tier.tier(path), records.older)
    return Submitted(checked, {path.name: submission.provenance.summary}, sheets, [path])


def load(paths: Sequence[Path]) -> Submitted:
    """Submissions of one suite and version, as one; of a contact sheet that several have, the first one's. Raises
    `UsageError` if they do not go together (see `merge`)."""
    parts = [read(path) for path in paths]
    suite = parts[0].records.suite
    file = published.suite_file(suite)
    order = [grid.name for grid in read_suite(file).grids] if file else []
    records = merge({path.name: part.records for path, part in zip(paths, parts, strict=True)}, order)
    sheets: dict[str, Path] = {}
    for sheet in (sheet for part in parts for sheet in part.sheets):
        sheets.setdefault(sheet.name, sheet)
    provenance = {name: text for part in parts for name, text in part.provenance.items()}
    return Submitted(records, provenance, list(sheets.values()), list(paths))


def files(folder: Path) -> list[Path]:
    """The submissions that lie in a folder, without a run's own."""
    paths = sorted([*folder.glob("*.json"), *folder.glob("*.json.gz")])
    return [path for path in paths if not path.name.endswith(".verification.json") and path.name != RUN]
