"""How far a submission's figures were checked, as `immunebench verify` notes it beside the submission."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UsageError, describe
from harness.publishing.schema import Digest, Text
from harness.publishing.submission import SUFFIX
from harness.store import file_digest


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


class Verification(BaseModel):
    """What a check of a submission found. submission: the file's SHA-256. cells: of so many measured cells. rerun:
    so many were run again. seed: of the draw."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    submission: Digest
    tier: Tier
    cells: int
    rerun: int
    seed: int
    exact: int
    tolerance: int
    interval: int
    """Figures that agree to the last bit, but for rounding, and within the spread over seeds."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    harness: Text
    commit: Text | None

    @property
    def told(self) -> str:
        """One line, for a board."""
        if self.tier in (Tier.self_reported, Tier.schema_valid):
            return str(self.tier)
        return f"{self.tier}, {self.rerun} of {self.cells} cells rerun on {self.date}"


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
