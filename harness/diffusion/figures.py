"""The pictures beside this track's table: contact sheets, and rates and gaps against steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from harness.diffusion.model import Images
from harness.leaderboard.plots import save

WIDE = 10
"""pictures in a row of a contact sheet"""
LABEL = 240


def contact_sheet(rows: Sequence[tuple[str, Images]], side: int = 64) -> Image.Image:
    """Rows of pictures (n, height, width, 3), the first WIDE of each, beside their labels; in 256 colours, for such
    sheets are kept."""
    sheet = Image.new("RGB", (LABEL + WIDE * (side + 2), len(rows) * (side + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (label, images) in enumerate(rows):
        pen.text((4, line * (side + 2) + side // 2 - 6), label, fill="black")
        for place, image in enumerate(images[:WIDE]):
            grown = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(grown, (LABEL + place * (side + 2), line * (side + 2)))
    return sheet.quantize(256, dither=Image.Dither.NONE)


def draw(records: pd.DataFrame, out: Path) -> list[Path]:
    """The curves of each grid as PNG and SVG into `out`; the files."""
    files = []
    measured = records[(records["status"] == "ok") & records["step"].notna()]
    for grid, of_grid in measured.groupby("grid", sort=False):
        files += save(_curves(of_grid), out / f"{grid}_steps")
    return files


def _curves(records: pd.DataFrame) -> Figure:
    """The rate of the targets and, by encoder, similarity to the reference (MIMA, Fig. 3 and 5) and MSGR, an attacker
    a row, mean over groups and seeds."""
    of_targets = records[(records["role"] == "harmful") & records["concept"].isna()]
    rate, likeness = (of_targets[of_targets["metric"] == metric] for metric in ("rate", "similarity"))
    gaps = records[records["metric"] == "msgr"]
    lines = [("rate of the targets", rate)] if len(rate) else []
    for title, found in (("M, {}", likeness), ("MSGR, {} (%)", gaps)):
        lines += [(title.format(encoder), found[found["policy"] == encoder]) for encoder in found["policy"].unique()]
    attackers, defenses = list(records["attacker"].unique()), list(records["defense"].unique())
    figure = Figure(figsize=(2.4 * len(lines) + 0.6, 2.1 * len(attackers) + 0.8), layout="constrained")
    axes = figure.subplots(len(attackers), len(lines), squeeze=False, sharex=True, sharey="col")
    for j, (label, found) in enumerate(lines):
        axes[0][j].set_title(label, fontsize=9)
        axes[-1][j].set_xlabel("steps")
        for i, attacker in enumerate(attackers):
            for k, defense in enumerate(defenses):
                of = found[(found["attacker"] == attacker) & (found["defense"] == defense)].dropna(subset=["value"])
                mean = of["value"].astype(float).groupby(of["step"].astype(int)).mean()
                look = {"color": mpl.colormaps["tab10"](k % 10), "linestyle": "-" if k < 10 else "--"}
                axes[i][j].plot(mean.index, mean, marker=".", label=defense, **look)
    for i, attacker in enumerate(attackers):
        axes[i][0].set_ylabel(attacker, fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    return figure
