"""Selects a part of a suite and changes settings: the options that `run`, `plan`, `release` and Python share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import yaml
from pydantic import Field, ValidationError

from harness.errors import UsageError, describe
from harness.labels import FrozenModel
from harness.plugin import KINDS


class Selection(FrozenModel):
    """The part of a suite to run, with changed settings."""

    grids: tuple[str, ...] = Field((), description="Run this grid only.")
    defenses: tuple[str, ...] = Field((), description="Run this defense row only; another plugin's name adds a row.")
    attackers: tuple[str, ...] = Field((), description="Run this attacker row only; another plugin's name adds a row.")
    seeds: int | None = Field(None, ge=1, description="Use seeds 1 … N instead of the suite's.")
    settings: tuple[str, ...] = Field(
        (),
        description="Change a row: defenses.LABEL.FIELD=VALUE, attackers.… or metrics.…; or all tasks: "
        "tasks.FIELD=VALUE, e.g. tasks.precision=bf16.",
    )
    plugins: tuple[Path, ...] = Field((), description="Add the plugins of a Python file.")
    base: str | None = Field(
        None,
        description="Use another of the suite's base models, e.g. v1-4; v1-4=DIR: with the weights in the folder DIR; "
        "DIR alone: the same, if the suite has one other base model.",
    )

    @classmethod
    def of(cls, **options: Any) -> Selection:
        """A selection from keyword arguments.

        options: the fields of this class. Raises `UsageError` for an unknown option or a wrong value.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise UsageError(describe(error)) from None

    def rows(self, kind: str) -> tuple[str, ...]:
        """Labels of the rows of the kind `kind` to run; empty: all rows."""
        return {"defense": self.defenses, "attacker": self.attackers}.get(kind, ())

    @property
    def changes(self) -> dict[tuple[str, str], dict[str, Any]]:
        """`settings` as values by field name, for each kind and label; raises `UsageError` for a malformed setting."""
        changes: dict[tuple[str, str], dict[str, Any]] = {}
        for kind, label, field, value in map(_setting, self.settings):
            if kind in KINDS:
                changes.setdefault((kind, label), {})[field] = value
        return changes

    @property
    def tasks(self) -> dict[str, Any]:
        """The `settings` of all tasks as values by field name; raises `UsageError` for a malformed setting."""
        return {field: value for kind, _, field, value in map(_setting, self.settings) if kind == "task"}


class Options(TypedDict, total=False):
    """The fields of a `Selection` as keyword arguments."""

    grids: Sequence[str]
    defenses: Sequence[str]
    attackers: Sequence[str]
    seeds: int | None
    settings: Sequence[str]
    plugins: Sequence[str | Path]
    base: str | None


def _setting(text: str) -> tuple[str, str, str, Any]:
    path, equals, value = text.partition("=")
    parts = path.split(".")
    kind = parts[0].removesuffix("s")
    is_task = kind == "task" and len(parts) == 2
    if not equals or not (is_task or (kind in KINDS and len(parts) >= 3)):
        raise UsageError(f"--set {text}: write defenses.LABEL.FIELD=VALUE, attackers.…, metrics.… or tasks.FIELD=VALUE")
    try:
        return kind, ".".join(parts[1:-1]), parts[-1], yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {text}: {value!r} is not valid YAML") from None
