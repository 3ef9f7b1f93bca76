"""The picture of a grid's performance profiles: how many cells each defense holds at least so well."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from harness.leaderboard.plots import save
from harness.leaderboard.scores import Cells
from harness.leaderboard.stats import performance_profile

FEWEST = 5
"""Fewer cells a defense make no distribution."""


def draw(of: Cells, path: Path) -> list[Path]:
    """Each defense's worst cases as a profile (see `stats.performance_profile`), as PNG and SVG at `path`; no file
    where there are too few cells or where all are alike."""
    worst = of.worst.unstack("defense").reindex(columns=of.defenses)
    scores = worst.to_numpy(float)
    thresholds = np.unique(scores[np.isfinite(scores)])
    if len(worst) < FEWEST or len(thresholds) < 2 or np.ptp(thresholds) <= of.resolution:
        return []
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    colours = mpl.colormaps["tab20"](range(20))
    for i, defense in enumerate(of.defenses):
        share = performance_profile(worst[defense].to_numpy(), thresholds)
        # Coming from what a defender wants least, a step down wherever a cell is lost.
        axis.step(of.value(thresholds), share, where="pre", color=colours[i % 20], label=defense, linewidth=1.2)
    if of.log:
        axis.set_xscale("log")
    if of.better == "lower":
        axis.invert_xaxis()
    what = str(of.figure["metric"]).replace("_", " ")
    axis.set(xlabel=f"{what} under the strongest attacker" if list(of.scores) != [""] else what,
             ylabel="share of tasks × seeds\nat least so good", ylim=(-0.03, 1.03))  # fmt: skip
    figure.legend(loc="outside right upper", fontsize=8)
    return save(figure, path)
