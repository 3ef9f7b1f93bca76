"""Folders of pictures: listing, hashing and reading them.

The pictures of a folder are its regular files with one of `SUFFIXES`, but those whose names begin with a dot.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.bounded import file_digest
from harness.errors import RunError
from harness.pictures import read_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def picture_files(folder: str) -> list[Path]:
    """The picture files in `folder`, ordered by name."""
    return sorted(path for path in Path(folder).glob("*") if _other(path) is None)


def left_out(folder: str) -> dict[str, int]:
    """How many entries of `folder` are not among its pictures, by kind: a suffix, hidden, folder or other."""
    return dict(sorted(Counter(kind for path in Path(folder).glob("*") if (kind := _other(path))).items()))


def _other(path: Path) -> str | None:
    """The kind of an entry that is no picture; None for a picture."""
    if path.name.startswith("."):  # macOS writes ._a.png beside a.png
        return "hidden"
    if not path.is_file():
        return "folder" if path.is_dir() else "other"
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return None
    return suffix if re.fullmatch(r"\.\w+", suffix) else "other"


def no_pictures(folder: str) -> str:
    """The error message for a `folder` without pictures."""
    others = ", ".join(f"{count} {kind}" for kind, count in left_out(folder).items())
    return f"no pictures in {folder}{f', only {others}' if others else ''}; put some there ({' '.join(SUFFIXES)})"


def one_picture(folder: str) -> str:
    """The error message for a `folder` with one picture, where an attacker and a defense need one each."""
    return (
        f"{folder} holds one picture, and a defense and an attacker learn from different ones: add pictures, or give "
        "both the same ones with `protocol: {shared: true}`"
    )


def folder_digest(folder: str) -> str | None:
    """SHA-256 of the pictures in `folder`, in hexadecimal; None if there are none (the job that reads them fails)."""
    files = picture_files(folder)
    if not files:
        return None
    whole = hashlib.sha256()
    for path in files:
        whole.update(file_digest(path).encode())
    return whole.hexdigest()


def read_images(folder: str, size: int) -> npt.NDArray[np.uint8]:
    """Read the pictures in `folder`, ordered by name, crop each to the central square and resize it to `size` pixels.

    Returns (n, size, size, 3) uint8. Raises `RunError`, which names the file, if there are no pictures, or if a picture
    cannot be read (see `read_picture`).
    """
    files = picture_files(folder)
    if not files:
        raise RunError(no_pictures(folder))
    return np.stack([_read(path, size) for path in files])


def _read(path: Path, size: int) -> npt.NDArray[np.uint8]:
    picture = read_picture(path)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    middle = picture.crop(
        (left, top, left + side, top + side)
    )  # before resizing, or the filter would mix in pixels outside of the square
    return np.asarray(middle.resize((size, size), Image.Resampling.LANCZOS))
