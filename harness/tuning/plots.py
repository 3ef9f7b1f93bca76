"""The picture of a search: the best score so far against the number of trials."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.leaderboard import looks
from harness.leaderboard.plots import APART, PAPER, WIDE, legend, panels, save, style, wrapped


@PAPER
def best_so_far(trials: pd.DataFrame, out: Path) -> Path:
    """Draw the best score so far of each defense against the trial number, a panel for each grid and attacker, into the
    folder `out`. trials: see `harness.tuning.api.trial_table`."""
    tried = list(trials.groupby(["grid", "attacker"], sort=False))
    all_looks = looks.of_names(trials["defense"].unique())
    figure, axes = panels(len(tried), WIDE, 1.7)
    for place, (axis, ((grid, attacker), rows)) in enumerate(zip(axes, tried, strict=True)):
        if place:
            axis.sharey(axes[0])
        for defense, line in rows.groupby("defense", sort=False):
            look = all_looks[str(defense)]
            axis.step(line["trial"] + 1, line["best"], where="post", label=defense, markevery=APART, **style(look))
        axis.set(title=f"{wrapped(str(grid), 20)}:\n{wrapped(str(attacker), 20)}", xlabel="trials")
        axis.set_ylabel("best score so far\n(higher: stronger)" if place % WIDE == 0 else "")
    legend(figure, axes, first=list(all_looks))
    return save(figure, out / "trials")
