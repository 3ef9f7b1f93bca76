"""Files of tuned settings: of each attacker, against each defense of one suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from harness import strict_yaml
from harness.errors import UsageError, describe
from harness.files import write_text
from harness.labels import FrozenModel, Label, Name

FORMAT = 1


class TunedFile(FrozenModel):
    """The content of a file of tuned settings, which a suite's attacker row names as `tuned`."""

    format: int = Field(ge=1, le=FORMAT, description=f"format of the file; this harness reads up to {FORMAT}")
    suite: Name = Field(description="suite on whose tuning tasks the settings were searched")
    version: int = Field(ge=1, description="its version")
    trials: int = Field(ge=1, description="number of trials of each search")
    epsilon: float = Field(ge=0, lt=1, description="share of the released model's retention that an attack may destroy")
    attackers: dict[Label, dict[Label, dict[str, Any]]] = Field(
        description="by attacker row and defense row, values of the searched fields"
    )


def read(path: Path) -> TunedFile:
    """Read a file of tuned settings; raises `UsageError` for an invalid one."""
    content = strict_yaml.read(path)
    try:
        return TunedFile.model_validate(content.value)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error, content.line)}") from None


def write(tuned: TunedFile, path: Path) -> None:
    """Write a file of tuned settings."""
    write_text(path, yaml.safe_dump(tuned.model_dump(), sort_keys=False, allow_unicode=True))
