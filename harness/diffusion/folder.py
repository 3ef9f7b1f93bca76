"""Pictures from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.diffusion.concepts import SUFFIXES, pictures
from harness.diffusion.model import Images
from harness.errors import RunError

LARGEST = 8192
"""pixels a side of a picture that is read"""


def read_images(folder: str, size: int) -> Images:
    """The pictures of a folder, by name, cropped to the middle square and resized; (n, size, size, 3).

    Raises `RunError`, naming the file, for a folder without pictures, one that cannot be read, is larger than
    LARGEST pixels a side, or has no red, green and blue.
    """
    files = pictures(folder)
    if not files:
        raise RunError(f"no pictures in {folder}; put some there ({' '.join(SUFFIXES)})")
    return np.stack([_read(path, size) for path in files])


def _read(path: Path, size: int) -> Images:
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
    middle = flat.crop((left, top, left + side, top + side))  # first, or the filter would reach beyond it
    return np.asarray(middle.resize((size, size), Image.Resampling.LANCZOS))
