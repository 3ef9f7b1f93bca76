"""Why a job failed, in one line."""

from __future__ import annotations

import traceback
from pathlib import Path

from harness.errors import ImmuneBenchError, printable

LONGEST = 500
"""Most characters of a reason."""


def reason(error: BaseException) -> str:
    """The text of a job's `error` in one line; of an error that is not the harness's own with its type and place."""
    if isinstance(error, ImmuneBenchError):
        return line(error)
    at = (traceback.extract_tb(error.__traceback__) or [None])[-1]
    place = f" at {Path(at.filename).name}:{at.lineno}" if at else ""
    text = line(error)
    return f"{type(error).__name__}{place}{f': {text}' if text else ''}"[:LONGEST]


def line(error: BaseException) -> str:
    """The text of an error in one line, without characters that a terminal or a file cannot take; empty if the error
    has none."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # of a plugin's own class
        return ""
    return printable(text)
