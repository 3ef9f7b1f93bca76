"""A submission as a file: JSON (`.json` or, compressed, `.json.gz`) with its contact sheets beside it.

What is read here may be anybody's: sizes are bounded before anything is built of them, nothing is unpickled or run.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import UsageError
from harness.store import file_digest
from harness.submission.schema import FORMAT, InvalidSubmission, Submission

LIMIT = 64 * 2**20
"""Bytes of a submission's text; a longer one is refused."""
DEPTH = 20
"""Levels that its lists and objects may be nested."""
SUFFIX = ".json.gz"


def read(path: Path) -> Submission:
    """A submission, its form and its digests checked, those of the pictures beside it too.

    Raises `UsageError` if there is no such file or it is of a newer format, and `InvalidSubmission`.
    """
    submission = parse(_content(path), str(path))
    for name, digest in submission.pictures():
        picture = path.parent / name
        try:
            same = not picture.is_symlink() and file_digest(picture) == digest
        except OSError:
            same = False
        if not same:
            raise InvalidSubmission(f"{path}: its picture {name} is not beside it, or is another one")
    return submission


def parse(content: Any, where: str) -> Submission:
    """What a submission's JSON says; raises as `read` does."""
    newest = content.get("format") if isinstance(content, dict) else None
    if isinstance(newest, int) and newest > FORMAT:
        raise UsageError(f"{where} has format {newest}; this harness reads up to {FORMAT}: upgrade immunebench")
    try:
        return Submission.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        told = (
            f"{at}: {first['msg']} (got {first['input']!r:.80})" if at else first["msg"].removeprefix("Value error, ")
        )
        raise InvalidSubmission(f"{where} is no valid submission: {told:.500}") from None


def _content(path: Path) -> Any:
    """The JSON of a file, of `LIMIT` bytes at most."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(LIMIT + 1)
        if len(data) > LIMIT:
            raise InvalidSubmission(f"{path} is no valid submission: longer than {LIMIT >> 20} MiB")
        content = json.loads(data, parse_constant=_refuse)
        _bounded(content)
        return content
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; `immunebench submit` writes it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidSubmission(f"cannot read {path}: {error}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or too deep
        raise InvalidSubmission(f"{path} is no valid submission: no JSON ({error!s:.100})") from None


def _bounded(content: Any) -> None:
    """Raises ValueError for JSON that is nested deeper than any submission, or has infinite numbers or halves of
    characters."""
    level = [content]
    for _ in range(DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, list | dict)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    if level:
        raise ValueError(f"nested deeper than {DEPTH}")
    json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def write(content: Mapping[str, Any], path: Path) -> None:
    """A submission's content as JSON, compressed if `path` ends with .gz; the same content gives the same bytes."""
    data = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
