"""The paper's Figure 2: the map of log RIR over digit pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.leaderboard.plots import PAPER, panels, save, wrapped

COLUMNS = 3
"""Maps beside each other: in three columns a cell has room for a number of 8 points."""


def plots(records: pd.DataFrame, out: Path) -> list[Path]:
    """Save the map of each grid in `records` (columns `harness.records.COLUMNS`) that has all pairs into the folder
    `out`; returns the files."""
    files = []
    measured = records[records["status"] == "ok"]
    for grid, rows in measured.groupby("grid", sort=False):
        if (figure := _rir_maps(rows)) is not None:
            files.append(save(figure, out / f"{grid}_log_rir"))
    return files


@PAPER
def _rir_maps(records: pd.DataFrame) -> Figure | None:
    """For each defense a map of ln RIR (floor, training rows), mean over seeds, with the rounded number in each cell: a
    row for each benign digit, a column for each harmful digit, as in the paper's Figure 2. None if not all 90 pairs
    were measured."""
    rir = records[(records["metric"] == "rir") & (records["variant"] == "floor") & (records["split"] == "train")]
    digits = rir["task"].str.extract(r"^P(?P<benign>\d)-H(?P<harmful>\d)$").dropna().astype(int)
    if len(digits.drop_duplicates()) < 90:
        return None
    cells = digits.assign(defense=rir["defense"], log=np.log(rir["value"].astype(float)))
    means = cells.groupby(["defense", "benign", "harmful"], sort=False)["log"].mean()
    defenses = list(cells["defense"].unique())
    figure, axes = panels(len(defenses), COLUMNS, 2.3)
    for place, (axis, defense) in enumerate(zip(axes, defenses, strict=True)):
        grid = np.full((10, 10), np.nan)
        for (benign, harmful), mean in means[defense].items():
            grid[benign, harmful] = mean
            colour = "white" if abs(mean) > 4.5 else "black"
            axis.text(harmful, benign, f"{round(mean)}", ha="center", va="center", color=colour)
        image = axis.imshow(grid, cmap="RdBu", vmin=-7, vmax=7)
        axis.set(title=wrapped(defense, 20), xticks=range(10), yticks=range(10))
        axis.set_xlabel("harmful digit" if place + COLUMNS >= len(defenses) else "")
        axis.set_ylabel("benign digit" if place % COLUMNS == 0 else "")
    label = "ln RIR (κ policy floor, training rows; higher is better)"
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, fraction=0.05, label=label)
    return figure
