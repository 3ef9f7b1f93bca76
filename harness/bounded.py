"""Reads files that may be damaged, or of anyone: only regular files, and sizes are checked before objects are built.

A device or a pipe in the place of a file may never end. A short compressed file, or a short text of JSON, may be large
in memory.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

DEPTH = 20
"""Largest depth of nested lists and objects of JSON."""
VALUES = 10**5
"""Largest number of values of JSON by default: items of lists, members of objects, lists and objects."""


def open_file(path: Path, mode: Literal["rb", "ab"] = "rb") -> BinaryIO:
    """Open the regular file `path`, to read it or to append to it; raises `OSError` for anything else, e.g. a pipe."""
    file: BinaryIO = open(path, mode, opener=_open)  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # to open a pipe would wait for its other end


def read_bytes(path: Path, limit: int, packed: bool = False) -> bytes:
    """The content of the regular file `path`.

    limit: largest length in bytes. packed: unpack the content if it is compressed by gzip; the limit is for what is
    unpacked. Raises `OSError` if the file cannot be read, `ValueError` if it is longer, and `EOFError` or `zlib.error`
    for a damaged compressed file.
    """
    with open_file(path) as file:
        if packed:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
        data = gzip.GzipFile(fileobj=file).read(limit + 1) if packed else file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"longer than {limit >> 20} MiB" if limit >> 20 else f"longer than {limit} bytes")
    return data


def file_digest(path: Path) -> str:
    """SHA-256 of the regular file `path`, in hexadecimal; raises `OSError` if it cannot be read."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto


def parse_json(data: bytes, values: int = VALUES) -> Any:
    """The value of JSON in UTF-8.

    values: largest number of values; a text is refused by its commas and brackets, before it is parsed. Raises
    `ValueError` for anything but strict JSON: for two members of one name, NaN, a number that no float holds, half of a
    surrogate pair, and for a depth above `DEPTH`.
    """
    if sum(data.count(letter) for letter in b",[{") > values:
        raise ValueError(f"more than {values} values")
    text = data.decode()
    try:
        content = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_members
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH}") from None
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
    if "\\u" in text:
        json.dumps(content, ensure_ascii=False).encode()  # raises UnicodeEncodeError, a ValueError, for a surrogate
    return content


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.40} is too large for a number")
    return value


def _unique_members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The members of an object; raises `ValueError` if two have the same name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object has two members with the same name")
    return members
