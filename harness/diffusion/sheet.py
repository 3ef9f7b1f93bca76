"""Contact sheets: rows of small pictures with a label on the left."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from harness.diffusion.model import Images

COLUMNS = 10
"""Pictures in a row."""
GAP = 2
"""Pixels between pictures."""
FONT_SIZE = 16
"""Height of the labels, in pixels."""


def contact_sheet(rows: Sequence[tuple[str, Images]], side: int = 64) -> Image.Image:
    """Draw a sheet in 256 colours, which keeps its file small; the labels are as wide as the longest one.

    rows: labels and pictures (n, height, width, 3); the first COLUMNS pictures are shown. side: width and height of a
    picture, in pixels.
    """
    font, cell = ImageFont.load_default(FONT_SIZE), side + GAP
    margin = 12 + max(int(font.getlength(label)) for label, _ in rows)
    columns = min(COLUMNS, max(len(images) for _, images in rows))
    sheet = Image.new("RGB", (margin + columns * cell, len(rows) * cell), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (label, images) in enumerate(rows):
        pen.text((4, line * cell + side // 2), label, font=font, fill="black", anchor="lm")
        for column, image in enumerate(images[:COLUMNS]):
            scaled = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(scaled, (margin + column * cell, line * cell))
    return sheet.quantize(256, dither=Image.Dither.NONE)
