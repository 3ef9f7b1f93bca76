"""The errors of the harness. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
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


def nearest(word: str, choices: list[str]) -> str:
    """A hint that names the choices closest to `word`, or all of them if none is close."""
    choices = list(dict.fromkeys(choices))
    close = difflib.get_close_matches(word, choices, n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"there are: {', '.join(sorted(choices)) or 'none'}"


def describe(error: ValidationError) -> str:
    """The message of a pydantic error as one line: each wrong field with its value, unless that is a whole mapping."""
    return "; ".join(_describe_item(item) for item in error.errors())


def _describe_item(item: ErrorDetails) -> str:
    field = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    value = "" if isinstance(item["input"], dict) else f" (got {item['input']!r:.80})"
    return f"{field}: {message}{value}" if field else f"{message}{value}"
