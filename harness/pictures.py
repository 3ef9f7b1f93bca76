"""Reads one picture of anyone's."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from harness.errors import RunError

LARGEST = 8192
"""Largest side of a picture, in pixels; larger pictures are refused."""


def read_picture(path: Path) -> Image.Image:
    """The first frame of the picture in the file `path` in RGB: upright, as its EXIF data say, and on white where it is
    transparent. Raises `RunError`, which names the file, if it cannot be read, has a side of more than LARGEST pixels,
    or cannot be converted to RGB, as 16-bit grey."""
    try:
        with Image.open(path) as image:
            if max(image.size) > LARGEST:
                raise RunError(f"{path} has {image.width}×{image.height} pixels; at most {LARGEST} a side: shrink it")
            if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "1"):
                raise RunError(f"{path} has colours in {image.mode}; save it as RGB")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except RunError:
        raise
    except Exception as error:  # of many types where a file is damaged
        raise RunError(f"cannot read the picture {path}: {error}") from None
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
