"""How far a submission's figures were checked, as `immunebench verify` notes it beside the submission."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import UsageError, describe
from harness.store import file_digest
from harness.submission.read_write import SUFFIX
from harness.submission.schema import Digest, Text


class Tier(StrEnum):
    """From nothing to everything checked."""

    self_reported = "self-reported"
    """Nobody but its author has checked it."""
    schema_valid = "schema-valid"
    """Form, digests and keys are right; no figure was measured again."""
    spot_checked = "spot-checked"
    """Cells drawn at random were run again and agree."""
    reproduced = "reproduced"
    """All cells were run again and agree."""

    @classmethod
    def reached(cls, rerun: int, cells: int) -> Tier:
        """By a check that holds and has run so many of so many cells again."""
        return cls.schema_valid if not rerun else cls.spot_checked if rerun < cells else cls.reproduced


class Verification(BaseModel):
    """What a check of a submission found. submission: the file's SHA-256. cells: of so many measured cells. rerun:
    so many were run again. seed: of the draw. of_suite: how many cells of the installed suite it has, and of how many;
    None: the suite is not installed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    submission: Digest
    tier: Tier
    cells: int
    rerun: int
    seed: int
    of_suite: tuple[int, int] | None = None
    exact: int
    tolerance: int
    interval: int
    """Figures that agree to the last bit, but for rounding, and within the spread over seeds."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    harness: Text
    commit: Text | None

    @model_validator(mode="after")
    def _consistent(self) -> Verification:
        if self.tier is not Tier.reached(self.rerun, self.cells) or self.rerun > self.cells:
            raise ValueError(f"{self.rerun} of {self.cells} cells rerun make no submission {self.tier}")
        return self

    @property
    def told(self) -> str:
        """One line, for a board."""
        parts = [str(self.tier)]
        if self.rerun:
            parts.append(f"{self.rerun} of {self.cells} cells rerun on {self.date}")
        if self.interval:
            figures = self.exact + self.tolerance + self.interval
            parts.append(f"{self.interval} of {figures} figures only within the spread over seeds")
        if self.of_suite and self.of_suite[0] < self.of_suite[1]:
            parts.append("{} of the suite's {} cells".format(*self.of_suite))
        return ", ".join(parts)


def beside(submission: Path) -> Path:
    """Where the verification of a submission lies."""
    name = submission.name.removesuffix(".gz").removesuffix(".json")
    return submission.with_name(f"{name}.verification.json")


def files(folder: Path) -> list[Path]:
    """The submissions in a folder."""
    found = sorted([*folder.glob("*.json"), *folder.glob(f"*{SUFFIX}")])
    return [path for path in found if not path.name.endswith(".verification.json")]


def tier(submission: Path) -> str:
    """What is known of a submission, in words: it is self-reported unless its verification is of these very bytes."""
    path = beside(submission)
    if not path.is_file():
        return str(Tier.self_reported)
    try:
        found = Verification.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{path} is no verification: {describe(error):.300}") from None
    return found.told if found.submission == file_digest(submission) else str(Tier.self_reported)
