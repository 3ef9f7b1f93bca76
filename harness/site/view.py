"""What a board of the site is made of, and where it is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from harness import leaderboard, records
from harness.errors import UsageError
from harness.submission import boards
from harness.submission import pack as packing
from harness.submission import tier as tiers


@dataclass(frozen=True)
class Source:
    """One board. name: its folder on the site. records, published: as `leaderboard.make` takes them. tier: how far
    others have checked it. provenance: where, when and by what it was computed, by title. pictures:
    the folder in which those of its cells lie. files: what can be downloaded as it is (records, submissions)."""

    name: str
    records: pd.DataFrame = field(repr=False)
    published: pd.DataFrame | None = field(default=None, repr=False)
    tier: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    pictures: Path | None = None
    files: Sequence[Path] = ()


def of_submissions(folder: Path) -> list[Source]:
    """A board for each folder below `folder` that holds submissions, not what a run has left; raises what
    `boards.load` raises, and `UsageError` if two folders are called alike."""
    found: dict[str, Source] = {}
    for inner in sorted(path for path in [folder, *folder.rglob("*")] if path.is_dir()):
        if files := [path for path in tiers.files(inner) if path.name != packing.RUN]:
            merged = boards.load(files)
            provenance = {path.name: of.provenance.told for path, of in merged.submissions.items()}
            if inner.name in found:
                raise UsageError(f"two folders of submissions below {folder} are called '{inner.name}', and a board "
                                 "has its folder's name")  # fmt: skip
            found[inner.name] = Source(inner.name, merged.records, merged.published, merged.tier, provenance, inner,
                                       files)  # fmt: skip
    return list(found.values())


def of_runs(folder: Path) -> list[Source]:
    """A board for each run whose records lie anywhere below `folder`; raises `UsageError` if there is none or two are
    called alike."""
    found: dict[str, Source] = {}
    for path in sorted(folder.rglob(leaderboard.RECORDS)):
        run = path.parent
        if run.name in found:
            raise UsageError(f"two runs below {folder} are called '{run.name}', and a board has its run's name")
        told = run / leaderboard.PUBLISHED
        published = leaderboard.read_published(told) if told.is_file() else None
        tier = "self-reported, of whoever made this site"
        found[run.name] = Source(run.name, records.load(path), published, tier, pictures=run, files=[path])
    if not found:
        raise UsageError(f"no {leaderboard.RECORDS} lies below {folder}; `immunebench run` writes one")
    return list(found.values())
