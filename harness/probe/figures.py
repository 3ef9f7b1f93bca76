"""The pictures beside this track's table, as in the paper: the log-RIR map of digit pairs (Figure 2), norm ratio and
loss gap against steps (Figure 1)."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.leaderboard.plots import save


def draw(records: pd.DataFrame, out: Path) -> list[Path]:
    """Write each picture as PNG and SVG into `out`; the files."""
    files = []
    measured = records[records["status"] == "ok"]
    for grid, of_grid in measured.groupby("grid", sort=False):
        figures = {f"{grid}_log_rir": _rir_maps(of_grid), f"{grid}_steps": _curves(of_grid)}
        for name, figure in figures.items():
            if figure is not None:
                files += save(figure, out / name)
    return files


def _rir_maps(records: pd.DataFrame) -> Figure | None:
    """Natural log of RIR (floor, training rows), mean over seeds; rows harmful, columns benign digits."""
    rir = records[(records["metric"] == "rir") & (records["policy"] == "floor") & (records["split"] == "train")]
    pairs = rir["task"].str.extract(r"^P(\d)-H(\d)$").dropna().astype(int)
    if len(set(zip(pairs[0], pairs[1], strict=True))) < 90:
        return None
    logs = np.log(rir.loc[pairs.index, "value"].astype(float))
    defenses = list(rir["defense"].unique())
    columns = min(4, len(defenses))
    lines = math.ceil(len(defenses) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.6 * lines), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
    for axis, defense in zip(axes, defenses, strict=False):
        of = (rir["defense"] == defense).reindex(logs.index)
        grid = np.full((10, 10), np.nan)
        means = logs[of].groupby([pairs[1][of], pairs[0][of]]).mean()
        for (harmful, benign), value in means.items():
            grid[harmful, benign] = value
            axis.text(benign, harmful, f"{value:.1f}", ha="center", va="center", fontsize=6)
        image = axis.imshow(grid, cmap="RdBu", vmin=-7, vmax=7)
        axis.set(title=defense, xlabel="benign digit", ylabel="harmful digit", xticks=range(10), yticks=range(10))
    for axis in axes[len(defenses) :]:
        axis.axis("off")
    figure.colorbar(image, ax=list(axes), shrink=0.6, label="ln RIR (floor policy, training rows)")
    return figure


def _curves(records: pd.DataFrame) -> Figure | None:
    """Norm ratio and loss gap against steps, an attacker a column, mean over tasks and seeds (geometric)."""
    steps = records[records["metric"].isin(["norm_ratio", "loss_gap"])].dropna(subset=["value"])
    if steps.empty:
        return None
    attackers, defenses = list(steps["attacker"].unique()), list(steps["defense"].unique())
    rows = [(role, metric) for metric in ("norm_ratio", "loss_gap") for role in ("benign", "harmful")]
    figure = Figure(figsize=(3.0 * len(attackers), 2.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(attackers), squeeze=False, sharex=True, sharey="row")
    colours = mpl.colormaps["tab20"](range(20))
    for i, (role, metric) in enumerate(rows):
        for j, attacker in enumerate(attackers):
            axis = axes[i][j]
            of = steps[(steps["metric"] == metric) & (steps["role"] == role) & (steps["attacker"] == attacker)]
            for k, defense in enumerate(defenses):
                curve = of[of["defense"] == defense]
                # A finished attack sits at rounding's level: drawn at the edge of the axis.
                values = np.log(curve["value"].astype(float).abs().clip(lower=1e-8))
                mean = np.exp(values.groupby(curve["step"].astype(int)).mean())
                axis.plot(mean.index, mean, color=colours[k % 20], label=defense, linewidth=1.2)
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
