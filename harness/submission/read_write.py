"""Reads and writes submission files: JSON (`.json` or, compressed, `.json.gz`), with pictures in the same folder.

A file may come from anyone. Its size is limited before any object is built from it, JSON is parsed strictly, and
nothing is unpickled or run.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.bounded import file_digest, parse_json, read_bytes
from harness.errors import UsageError, describe, printable
from harness.files import write_bytes
from harness.submission import old_forms
from harness.submission.schema import FORMAT, InvalidSubmission, Submission

LIMIT = 64 * 2**20
"""Largest size of a submission's text, in bytes; a longer one is refused."""
VALUES = 6_000_000
"""Largest number of JSON's values in a submission; each takes up to a few hundred bytes of memory."""
SUFFIX = ".json.gz"


def read(path: Path) -> Submission:
    """Read the submission in the file `path`; checks its form and its digests, also those of its pictures.

    A file of an earlier format is converted (see `harness.submission.old_forms`). Raises `UsageError` if there is no
    such file or its format is newer than `FORMAT`, and `InvalidSubmission` for an invalid file.
    """
    submission = parse(_content(path), str(path))
    for name, digest in submission.pictures():
        picture = path.parent / name
        try:
            same = not picture.is_symlink() and file_digest(picture) == digest
        except OSError:
            same = False
        if not same:
            raise InvalidSubmission(f"{path}: its picture {name} is missing in the same folder, or was changed")
    return submission


def parse(content: Any, where: str) -> Submission:
    """The submission in the parsed JSON `content`. where: name of the file in errors. Raises the errors of `read`."""
    newest = content.get("format") if isinstance(content, dict) else None
    if isinstance(newest, int) and newest > FORMAT:
        raise UsageError(f"{where} has format {newest}; this harness reads up to {FORMAT}: upgrade immunebench")
    try:
        if newest == old_forms.FORMAT and not isinstance(newest, bool):
            submission = Submission.model_validate(old_forms.convert(content), strict=True)
            return submission.model_copy(update={"older": True})
        return Submission.model_validate(content, strict=True)
    except ValidationError as error:
        text = describe(error)
    except old_forms.Malformed as error:
        text = str(error)
    raise InvalidSubmission(f"{where} is not a valid submission: {printable(' '.join(text[:500].split()))}")


def _content(path: Path) -> Any:
    """The JSON of a file of at most `LIMIT` bytes and `VALUES` values."""
    try:
        return parse_json(read_bytes(path, LIMIT, packed=True), VALUES)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; `immunebench submit` writes it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidSubmission(f"cannot read {path}: {error}") from None
    except ValueError as error:  # too long, no UTF-8, or no JSON of this size
        raise InvalidSubmission(f"{path} is not a valid submission: invalid JSON ({error!s:.100})") from None


def write(submission: Submission, path: Path) -> None:
    """Write `submission` to the file `path`, compressed if the name ends with .gz; equal content gives equal bytes."""
    content = submission.model_dump(mode="json", exclude_unset=True)
    data = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
