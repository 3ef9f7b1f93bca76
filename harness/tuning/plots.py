"""The picture of a search: the best score so far against the number of trials."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from harness.leaderboard.plots import save


def best_so_far(trials: pd.DataFrame, out: Path) -> Path:
    """Draw the best score so far of each defense against the trial number, a panel for each grid and attacker, into the
    folder `out`. trials: see `harness.tuning.api.trial_table`."""
    panels = list(trials.groupby(["grid", "attacker"], sort=False))
    figure = Figure(figsize=(4.2 * len(panels) + 1.2, 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, ((grid, attacker), rows) in zip(axes, panels, strict=True):
        for k, (defense, line) in enumerate(rows.groupby("defense", sort=False)):
            axis.step(
                line["trial"] + 1, line["best"], where="post", color=mpl.colormaps["tab10"](k % 10), label=defense
            )
        axis.set(title=f"{grid}: {attacker}", xlabel="trials")
    axes[0].set_ylabel("best score so far")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return save(figure, out / "trials")
