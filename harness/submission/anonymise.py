"""Anonymisation: removes the names of persons, machines and folders from a submission.

Paths in tasks become relative to the suite file's folder; of a file outside of this folder only the name remains.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from harness.store import default_root


def portable(value: Any, folder: Path) -> Any:
    """The JSON value `value` with each absolute path replaced by `{"path": …}`, relative to `folder`; `placed` reverses
    this."""
    if isinstance(value, dict):
        return {name: portable(item, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [portable(item, folder) for item in value]
    if not isinstance(value, str) or not PurePath(value).is_absolute():
        return value
    path = Path(value)
    return {"path": path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name}


def placed(value: Any, folder: Path) -> Any:
    """The JSON value `value` with each `{"path": …}` replaced by a path in `folder`; raises `ValueError` for a path
    outside of it and for an absolute path."""
    if isinstance(value, list):
        return [placed(item, folder) for item in value]
    if isinstance(value, dict) and set(value) != {"path"}:
        return {name: placed(item, folder) for name, item in value.items()}
    path = value["path"] if isinstance(value, dict) else value
    if isinstance(path, str) and (PurePath(path).is_absolute() or ".." in re.split(r"[/\\]", path)):
        raise ValueError(f"the submission names the file {path!r:.80}, which is outside of its suite's folder")
    return str(folder / str(path)) if isinstance(value, dict) else value


def anonymous(reason: str) -> str:
    """The reason why a job failed, `reason`, on one line, without folders, without the names of this machine and its
    user, and without control characters."""
    for folder in _folders():
        reason = reason.replace(folder + os.sep, "")
    reason = re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\":;,()]+[/\\])+", "", reason)
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+", " ", _names().sub("…", reason))


def leaks(content: Any) -> list[str]:
    """The places in the JSON value `content`, as dotted names, that have an absolute path or the name of a folder of
    this machine."""
    folders = _folders()

    def find(value: Any, where: tuple[str, ...]) -> Iterator[str]:
        if isinstance(value, str) and (PurePath(value).is_absolute() or any(folder in value for folder in folders)):
            yield ".".join(where)
        members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, item in members:
            yield from find(item, (*where, str(name)))

    return list(find(content, ()))


def _folders() -> list[str]:
    """The user's home folder, the current folder and the store, the longest first."""
    return sorted({str(Path.home()), os.getcwd(), str(default_root())} - {os.sep}, key=len, reverse=True)


def _names() -> re.Pattern[str]:
    """A pattern that matches the names of this machine and its user."""
    names = [platform.node()]
    with contextlib.suppress(KeyError, OSError, ImportError):  # a user without a name
        names.append(getpass.getuser())
    either = "|".join(re.escape(name) for name in names if name)
    return re.compile(rf"\b(?:{either})\b" if either else r"(?!)")
