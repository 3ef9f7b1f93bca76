"""Tiers: how far the values of a submission were checked. `immunebench verify --record` writes the tier into a file in
the submission's folder."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from harness.bounded import file_digest, parse_json, read_bytes
from harness.errors import UsageError, describe
from harness.labels import Digest, FrozenModel, Label, Text
from harness.submission.read_write import SUFFIX
from harness.submission.run_folder import RUN
from harness.submission.schema import Submission
from harness.track import PICTURES

LIMIT = 2**20
"""Largest size of a verification, in bytes."""
Count = Annotated[int, Field(ge=0)]


def _past(date: str) -> str:
    """A date that no machine of the world has yet to come to."""
    latest = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    if datetime.date.fromisoformat(date) > latest:
        raise ValueError("must not be in the future")
    return date


class Tier(StrEnum):
    """How far a submission was checked, in ascending order."""

    self_reported = "self-reported"
    """Only its author has checked it."""
    schema_valid = "schema-valid"
    """Form, digests and keys are correct; no value was measured again."""
    spot_checked = "spot-checked"
    """Cells drawn at random were run again and agree."""
    reproduced = "reproduced"
    """All cells were run again and agree, and the suite is installed and has no others."""

    @classmethod
    def reached(cls, rerun: int, cells: int, of_suite: tuple[int, int] | None) -> Tier:
        """The tier if `rerun` of `cells` cells were run again and agree. of_suite: see `Verification`; a part of a
        suite, or one that is not installed under its name and version, is never called reproduced."""
        if not rerun:
            return cls.schema_valid
        whole = of_suite is not None and of_suite[0] == of_suite[1]
        return cls.reproduced if rerun == cells and whole else cls.spot_checked


class Verification(FrozenModel):
    """A verification that found no problems.

    submission: SHA-256 of the submission's file. cells: number of measured cells. rerun: number of cells that were run
    again. seed: seed of the draw of these cells. of_suite: number of cells that the submission and the installed suite
    share, and number of cells of the suite; None if the suite is not installed. exact, tolerance, interval: number of
    values that agree exactly, within rounding, and within the spread over seeds. unchecked: rows whose
    cells could not be run again, because their plugins or weights were missing: grid, kind of plugin and label.
    ineligible: number of these cells.
    """

    format: Literal[1] = 1
    submission: Digest
    tier: Tier
    cells: Count
    rerun: Count
    seed: Count
    of_suite: tuple[Count, Count] | None = None
    exact: Count
    tolerance: Count
    interval: Count
    unchecked: list[tuple[Label, Label, Label]] = []
    ineligible: Count = 0
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$"), AfterValidator(_past)]
    harness: Text
    commit: Text | None

    @model_validator(mode="after")
    def _consistent(self) -> Verification:
        if self.tier is not Tier.reached(self.rerun, self.cells, self.of_suite) or self.rerun > self.cells:
            raise ValueError(f"the tier {self.tier} does not follow from {self.rerun} of {self.cells} cells run again")
        return self

    @property
    def summary(self) -> str:
        """The tier and its details in one line, for a board."""
        parts = [str(self.tier)]
        if self.rerun:
            parts.append(f"{self.rerun} of {self.cells} cells rerun on {self.date}")
        if self.ineligible:
            parts.append(f"{self.ineligible} of {self.cells} cells could not be rerun (plugins or weights missing)")
        if self.interval:
            values = self.exact + self.tolerance + self.interval
            parts.append(f"{self.interval} of {values} values only within the spread over seeds")
        if self.rerun and not self.of_suite:
            parts.append("its suite was not installed")
        if self.of_suite and self.of_suite[0] < self.of_suite[1]:
            parts.append("{} of the suite's {} cells".format(*self.of_suite))
        return ", ".join(parts)


def ineligible(submission: Submission, rows: Collection[tuple[str, str, str]]) -> int:
    """The number of measured cells of `submission` that belong to any of `rows`, see `Verification.unchecked`."""
    kinds = {"defense": "defense", "attacker": "attacker", "metric": "measured_by"}
    return len(
        {
            cell.key
            for cell in submission.cells
            if cell.coordinates["measured_by"] != PICTURES or cell.failed is not None
            if any((cell.coordinates["grid"], kind, cell.coordinates.get(name)) in rows for kind, name in kinds.items())
        }
    )


def verification_file(submission: Path) -> Path:
    """The file for the verification of the submission in the file `submission`."""
    name = submission.name.removesuffix(".gz").removesuffix(".json")
    return submission.with_name(f"{name}.verification.json")


def submission_files(folder: Path) -> list[Path]:
    """The files of the submissions in `folder`, ordered by name, without the one that a run writes into its folder."""
    files = sorted([*folder.glob("*.json"), *folder.glob(f"*{SUFFIX}")])
    return [path for path in files if path.name != RUN and not path.name.endswith(".verification.json")]


def submissions_below(folder: Path) -> dict[Path, list[Path]]:
    """By folder, `folder` or one below it, the submissions that it holds; folders without any are left out."""
    folders = sorted(path for path in [folder, *folder.rglob("*")] if path.is_dir())
    return {inner: files for inner in folders if (files := submission_files(inner))}


def verification(submission: Path) -> Verification | None:
    """The verification of the submission in the file `submission`; None if there is none with the file's present
    digest. Raises `UsageError` for an invalid verification file."""
    path = verification_file(submission)
    if not path.is_file():
        return None
    try:
        found = Verification.model_validate(parse_json(read_bytes(path, LIMIT)))
    except ValidationError as error:
        raise UsageError(f"{path} is not a verification: {describe(error):.300}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a verification: {error!s:.300}") from None
    return found if found.submission == file_digest(submission) else None


def tier(submission: Path) -> str:
    """How far the submission in the file `submission` was checked, in words. Raises as `verification` does."""
    found = verification(submission)
    return found.summary if found else str(Tier.self_reported)
