"""Plots as in the paper: the map of log RIR over digit pairs (Figure 2), norm ratio and excess loss against steps
(Figure 1)."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.leaderboard.plots import save


def plots(records: pd.DataFrame, out: Path) -> list[Path]:
    """Save the plots of each grid in `records` (columns `harness.records.COLUMNS`) into the folder `out`; returns the
    files."""
    files = []
    measured = records[records["status"] == "ok"]
    for grid, rows in measured.groupby("grid", sort=False):
        for name, figure in (("log_rir", _rir_maps(rows)), ("steps", _curves(rows))):
            if figure is not None:
                files.append(save(figure, out / f"{grid}_{name}"))
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
            axis.text(harmful, benign, f"{mean:.1f}", ha="center", va="center", fontsize=6)
        image = axis.imshow(grid, cmap="RdBu", vmin=-7, vmax=7)
        axis.set(title=defense, xlabel="harmful digit", ylabel="benign digit", xticks=range(10), yticks=range(10))
    for axis in axes[len(defenses) :]:
        axis.axis("off")
    figure.colorbar(image, ax=list(axes), shrink=0.6, label="ln RIR (κ policy floor, training rows)")
    return figure


def _curves(records: pd.DataFrame) -> Figure | None:
    """Norm ratio and excess loss against steps, geometric mean over tasks and seeds; a column for each attacker. None
    if the records have no attack."""
    values = records[records["metric"].isin(["norm_ratio", "excess_loss"])].dropna(subset=["value"])
    if values.empty:
        return None
    attackers, defenses = list(values["attacker"].unique()), list(values["defense"].unique())
    rows = [(role, metric) for metric in ("norm_ratio", "excess_loss") for role in ("benign", "harmful")]
    figure = Figure(figsize=(3.0 * len(attackers), 2.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(attackers), squeeze=False, sharex=True, sharey="row")
    colours = mpl.colormaps["tab20"](range(20))
    # A converged attack is at the level of rounding errors; it is drawn at the edge of the axis.
    logs = values.assign(value=np.log(values["value"].astype(float).abs().clip(lower=1e-8)))
    means = np.exp(logs.groupby(["role", "metric", "attacker", "defense", "step"])["value"].mean())
    for i, (role, metric) in enumerate(rows):
        for j, attacker in enumerate(attackers):
            axis = axes[i][j]
            for k, defense in enumerate(defenses):
                curve = means.get((role, metric, attacker, defense), pd.Series(dtype=float))
                axis.plot(curve.index.astype(int), curve, color=colours[k % 20], label=defense, linewidth=1.2)
            axis.set_yscale("log")
            axis.set_xscale("symlog", linthresh=1)
            axis.minorticks_off()
            if i == 0:
                axis.set_title(attacker, fontsize=9)
            if j == 0:
                axis.set_ylabel(f"{metric.replace('_', ' ')}\n{role} task")
            if i == len(rows) - 1:
                axis.set_xlabel("steps")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    return figure
