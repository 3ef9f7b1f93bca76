"""The paper's Figure 2: the map of log RIR over digit pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.leaderboard.plots import save


def plots(records: pd.DataFrame, out: Path) -> list[Path]:
    """Save the map of each grid in `records` (columns `harness.records.COLUMNS`) that has all pairs into the folder
    `out`; returns the files."""
    files = []
    measured = records[records["status"] == "ok"]
    for grid, rows in measured.groupby("grid", sort=False):
        if (figure := _rir_maps(rows)) is not None:
            files.append(save(figure, out / f"{grid}_log_rir"))
    return files


def _rir_maps(records: pd.DataFrame) -> Figure | None:
    """For each defense a map of ln RIR (floor, training rows), mean over seeds: a row for each benign digit, a column
    for each harmful digit, as in the paper's Figure 2. None if not all 90 pairs were measured."""
    rir = records[(records["metric"] == "rir") & (records["variant"] == "floor") & (records["split"] == "train")]
    digits = rir["task"].str.extract(r"^P(?P<benign>\d)-H(?P<harmful>\d)$").dropna().astype(int)
    if len(digits.drop_duplicates()) < 90:
        return None
    cells = digits.assign(defense=rir["defense"], log=np.log(rir["value"].astype(float)))
    means = cells.groupby(["defense", "benign", "harmful"], sort=False)["log"].mean()
    defenses = list(cells["defense"].unique())
    columns = min(4, len(defenses))
    lines = math.ceil(len(defenses) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.6 * lines), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
    for axis, defense in zip(axes, defenses, strict=False):
        grid = np.full((10, 10), np.nan)
        for (benign, harmful), mean in means[defense].items():
            grid[benign, harmful] = mean
            colour = "white" if abs(mean) > 5 else "black"
            text = f"{round(mean, 1) + 0.0:.1f}"  # no -0.0
            axis.text(harmful, benign, text, ha="center", va="center", fontsize=6, color=colour)
        image = axis.imshow(grid, cmap="RdBu", vmin=-7, vmax=7)
        axis.set(title=defense, xlabel="harmful digit", ylabel="benign digit", xticks=range(10), yticks=range(10))
    for axis in axes[len(defenses) :]:
        axis.axis("off")
    figure.colorbar(image, ax=list(axes), shrink=0.6, label="ln RIR (κ policy floor, training rows)")
    return figure
