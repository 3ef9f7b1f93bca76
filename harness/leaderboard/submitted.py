"""Submissions, and the submissions that runs leave in their folders, as records to make boards of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.records import Records
from harness.submission import merge
from harness.submission.pack import RUN
from harness.submission.tier import submission_files


@dataclass(frozen=True)
class Submitted:
    """One submission or more, as one board shows them. provenance: by file name, where, when and by what the values
    were computed. sheets: the contact sheets, as files. files: the submissions."""

    records: Records = field(repr=False)
    provenance: Mapping[str, str]
    sheets: Sequence[Path]
    files: Sequence[Path]


def load(paths: Sequence[Path], plugins: Sequence[Path] = ()) -> Submitted:
    """Submissions of one suite and version, as one; of a contact sheet that several have, the first one's. plugins:
    files that may hold the suite's track. Raises what `harness.submission.merge.load` raises."""
    merged = merge.load(paths, plugins)
    provenance = {path.name: submission.provenance.summary for path, submission in merged.submissions.items()}
    return Submitted(merged.records, provenance, list(merged.pictures.values()), list(paths))


def files(folder: Path) -> list[Path]:
    """The submissions that lie in a folder, without a run's own."""
    return [path for path in submission_files(folder) if path.name != RUN]
