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
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.bounded import file_digest
from harness.errors import RunError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LARGEST = 8192
"""Largest side of a picture, in pixels; larger pictures are refused."""


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
    cannot be read, has a side of more than LARGEST pixels, or cannot be converted to RGB.
    """
    files = picture_files(folder)
    if not files:
        raise RunError(no_pictures(folder))
    return np.stack([_read(path, size) for path in files])


def _read(path: Path, size: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if max(image.size) > LARGEST:
                raise RunError(f"{path} has {image.width}×{image.height} pixels; at most {LARGEST} a side: shrink it")
            if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "1"):
                raise RunError(f"{path} has colours in {image.mode}; save it as RGB")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise RunError(f"cannot read the picture {path}: {error}") from None
    white = Image.new("RGBA", upright.size, "white")
    flat = Image.alpha_composite(white, upright).convert("RGB")
    side = min(flat.size)
    left, top = (flat.width - side) // 2, (flat.height - side) // 2
    middle = flat.crop(
        (left, top, left + side, top + side)
    )  # before resizing, or the filter would mix in pixels outside of the square
    return np.asarray(middle.resize((size, size), Image.Resampling.LANCZOS))
