"""The errors of the harness. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class ImmuneBenchError(Exception):
    """Base of the errors that the command prints as one line. exit_code: exit code of the command."""

    exit_code = 1


class UsageError(ImmuneBenchError):
    """The call, a suite or a plugin's settings are wrong; nothing was computed. Exit code 2."""

    exit_code = 2


class RunError(ImmuneBenchError):
    """A run or a job failed; finished jobs are kept. Exit code 1."""


class PluginError(RunError):
    """A plugin broke its contract (NaN loss, ended early, yielded nothing); its cells fail."""


def printable(text: str) -> str:
    """`text` in which codes stand for characters that command a terminal, such as control characters and marks of
    direction; lines stay lines."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def nearest(word: str, choices: list[str]) -> str:
    """A hint that names the choices closest to `word`, or all of them if none is close."""
    choices = list(dict.fromkeys(choices))
    close = difflib.get_close_matches(word, choices, n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"there are: {', '.join(sorted(choices)) or 'none'}"


def describe(error: ValidationError, line: Callable[..., int | None] = lambda *path: None) -> str:
    """The message of a pydantic error as one line: each wrong field with its value, unless that is a whole mapping.

    line: gives the line of a field in its file, by the field's place; None where it is unknown.
    """
    items = (item for item in error.errors() if item["type"] != "default_factory_not_called")  # by another item's fault
    return "; ".join(_describe_item(item, line(*item["loc"])) for item in items)


_MESSAGES = {
    "missing": "is missing",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "extra_forbidden": "unknown key",
}
"""By type of a pydantic error, what we say instead of its message."""


_TYPE = re.compile(r"\[key\]|constrained-\w+|[\w-]+\[.*\]")
"""What pydantic puts among the names of fields: names of types in unions."""


def _describe_item(item: ErrorDetails, line: int | None) -> str:
    names = [str(part) for part in item["loc"] if not _TYPE.fullmatch(str(part))]
    field = ".".join(name if name.isprintable() else repr(name) for name in names)
    message = _MESSAGES.get(item["type"], item["msg"].removeprefix("Value error, "))
    message = re.sub(r"\d{20,}", lambda digits: f"{float(digits[0]):g}", message.replace("Input should be", "must be"))
    value = "" if isinstance(item["input"], dict) or item["type"] == "missing" else f"got {item['input']!r:.80}"
    further = ", ".join([value] * bool(value) + [f"line {line}"] * (line is not None))
    return f"{field}: " * bool(field) + message + f" ({further})" * bool(further)
