"""Contact sheets: rows of small pictures with a label on the left."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from harness.diffusion.model import Images

COLUMNS = 10
"""Pictures in a row."""
LABEL = 240
"""Width of the labels, in pixels."""


def contact_sheet(rows: Sequence[tuple[str, Images]], side: int = 64) -> Image.Image:
    """Draw a sheet in 256 colours, which keeps its file small.

    rows: labels and pictures (n, height, width, 3); the first COLUMNS pictures are shown. side: width and height of a
    picture, in pixels.
    """
    sheet = Image.new("RGB", (LABEL + COLUMNS * (side + 2), len(rows) * (side + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (label, images) in enumerate(rows):
        pen.text((4, line * (side + 2) + side // 2 - 6), label, fill="black")
        for column, image in enumerate(images[:COLUMNS]):
            scaled = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(scaled, (LABEL + column * (side + 2), line * (side + 2)))
    return sheet.quantize(256, dither=Image.Dither.NONE)
