"""Selects a part of a suite and changes settings: the options that `run`, `plan`, `release` and Python share."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, SupportsIndex, TypedDict, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from harness.errors import UsageError, describe
from harness.files import user_path
from harness.labels import FrozenModel, Label, Text
from harness.plugin import KINDS
from harness.track import MOST_SEEDS


def _several(given: Any) -> Any:
    """One name or path as a list of one."""
    return [given] if isinstance(given, str | Path | type) else given


def _files(given: Any) -> Any:
    """Files of plugins; those of classes are the files that define them."""
    several = _several(given)
    return [_file(one) if isinstance(one, type) else one for one in several] if isinstance(several, Sequence) else given


def _file(cls: type) -> Path:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None:
        raise ValueError(
            f"the class {cls.__name__} is in no file, from which workers could import it: begin its cell with "
            "`%%writefile NAME.py`, and give NAME.py"
        )
    return Path(file)


def _checkpoints(given: Any) -> Any:
    """Folders by name as texts NAME=DIR."""
    return [f"{name}={path}" for name, path in given.items()] if isinstance(given, Mapping) else _several(given)


def _settings(given: Any) -> Any:
    """Values by path, as `attackers.adam.lr`, as texts PATH=VALUE."""
    if not isinstance(given, Mapping):
        return _several(given)
    return [f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in given.items()]


def _text(given: Any) -> Any:
    """A path as a text."""
    return str(given) if isinstance(given, Path) else given


def _integer(given: Any) -> Any:
    """An integer of numpy as Python's."""
    return given if isinstance(given, bool) or not isinstance(given, SupportsIndex) else given.__index__()


Integer = Annotated[int | None, BeforeValidator(_integer)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_several)]
Model = TypeVar("Model", bound=FrozenModel)


def checked(model: type[Model], options: Mapping[str, Any]) -> Model:
    """The `model` of the keyword arguments `options`; raises `UsageError` for an unknown option or a wrong value."""
    try:
        return model(**options)
    except ValidationError as error:
        raise UsageError(describe(error)) from None


class Selection(FrozenModel):
    """The part of a suite to run, with changed settings."""

    grids: Names = Field((), description="Run this grid only.")
    tasks: Names = Field((), description="Run the task with this label only.")
    defenses: Names = Field((), description="Run this defense row only; another plugin's name adds a row.")
    attackers: Names = Field((), description="Run this attacker row only; another plugin's name adds a row.")
    seeds: Integer = Field(None, ge=1, le=MOST_SEEDS, description="Use seeds 1 … N instead of the suite's.")
    settings: Annotated[tuple[Text, ...], BeforeValidator(_settings)] = Field(
        (),
        description="Change a row: defenses.LABEL.FIELD=VALUE, attackers.… or metrics.…; or all tasks: "
        "tasks.FIELD=VALUE, e.g. tasks.precision=bf16.",
    )
    plugins: Annotated[tuple[Path, ...], BeforeValidator(_files)] = Field(
        (), description="Add the plugins of a Python file."
    )
    base: str | None = Field(
        None,
        description="Use another of the suite's base models, e.g. v1-4; v1-4=DIR: with the weights in the folder DIR; "
        "DIR alone: the same, if the suite has one other base model.",
    )

    checkpoints: Annotated[tuple[Annotated[Text, BeforeValidator(_text)], ...], BeforeValidator(_checkpoints)] = Field(
        (),
        description="NAME=DIR: add a row NAME with the released model in the folder DIR, or in its folder for each "
        "task, as safetensors; DIR alone: named like the folder.",
    )

    @classmethod
    def of(cls, **options: Any) -> Selection:
        """A selection from keyword arguments.

        options: the fields of this class. Raises `UsageError` for an unknown option or a wrong value.
        """
        return checked(cls, options)

    def rows(self, kind: str) -> tuple[str, ...]:
        """Labels of the rows of the kind `kind` to run; empty: all rows."""
        return {"defense": self.defenses, "attacker": self.attackers}.get(kind, ())

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each checkpoint by the name of its row; raises `UsageError` for two of one name, and for a
        folder whose name is no label."""
        folders: dict[str, Path] = {}
        for text in self.checkpoints:
            name, path = checkpoint(text)
            if folders.setdefault(name, path) != path:
                raise UsageError(f"--checkpoint {text}: another checkpoint is called '{name}'; choose another name")
        return folders

    @property
    def changes(self) -> dict[tuple[str, str], dict[str, str]]:
        """`settings` as texts of values by field name, for each kind and label (of all tasks: task and an empty label);
        raises `UsageError` for a malformed setting, and for two of one field."""
        changes: dict[tuple[str, str], dict[str, str]] = {}
        for text in self.settings:
            kind, label, field, value = _setting(text)
            if changes.setdefault((kind, label), {}).setdefault(field, value) != value:
                raise UsageError(f"--set {text}: the field has another value in another --set")
        return changes


class Options(TypedDict, total=False):
    """The fields of a `Selection` as keyword arguments."""

    grids: Sequence[str]
    tasks: Sequence[str]
    defenses: Sequence[str]
    attackers: Sequence[str]
    seeds: int | None
    settings: Sequence[str] | Mapping[str, Any]
    plugins: Sequence[str | Path | type]
    base: str | None
    checkpoints: Sequence[str | Path] | Mapping[str, str | Path]


def checkpoint(text: str) -> tuple[str, Path]:
    """Name and folder of a checkpoint, from NAME=DIR or DIR; raises `UsageError` for a folder whose name is no
    label."""
    name, equals, folder = text.partition("=")
    if equals and not folder:
        raise UsageError(f"--checkpoint {text}: name a folder after =")
    named = equals and not user_path(text).is_dir()
    path = user_path(folder if named else text).resolve()
    name = name if named else path.name
    try:
        TypeAdapter(Label).validate_python(name)
    except ValidationError as error:
        raise UsageError(f"--checkpoint {text}: the name of the row {describe(error)}; write NAME=DIR") from None
    return name, path


def _setting(text: str) -> tuple[str, str, str, str]:
    """Kind, label, field and the text of the value."""
    path, equals, value = text.partition("=")
    parts = path.split(".")
    kind = parts[0].removesuffix("s")
    is_task = kind == "task" and len(parts) == 2
    if not equals or not (is_task or (kind in KINDS and len(parts) >= 3)):
        raise UsageError(f"--set {text}: write defenses.LABEL.FIELD=VALUE, attackers.…, metrics.… or tasks.FIELD=VALUE")
    return kind, ".".join(parts[1:-1]), parts[-1], value
