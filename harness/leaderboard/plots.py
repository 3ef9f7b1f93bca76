"""Plots beside a board's tables, as PNG: performance profiles, and default curves of any track."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.leaderboard import looks
from harness.leaderboard.scores import QUANTITY, Cells, quantity_of
from harness.leaderboard.stats import logarithms, performance_profile
from harness.suite import Grid

WIDE = 4
"""Panels beside each other in curves of one quantity."""
MIN_CELLS = 5
"""Fewer cells a defense make no distribution."""


def save(figure: Figure, stem: Path) -> Path:
    """Write a figure to the file `stem` with the suffix .png, and return it."""
    FigureCanvasAgg(figure)
    path = stem.with_name(f"{stem.name}.png")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def profile(cells: Cells, out: Path) -> Path | None:
    """Draw each defense's worst cases as a performance profile (see `stats.performance_profile`) into the folder `out`;
    None where there are too few cells or all are equal."""
    worst = cells.worst.unstack("defense").reindex(columns=cells.defenses)
    scores = worst.to_numpy(float)
    thresholds = np.unique(scores[np.isfinite(scores)])
    if len(worst) < MIN_CELLS or len(thresholds) < 2 or np.ptp(thresholds) <= cells.ranking.resolution:
        return None
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    all_looks = looks.of_grid(cells.grid)
    for defense in cells.defenses:
        look, share = all_looks[defense], performance_profile(worst[defense].to_numpy(), thresholds)
        # From what a defender wants least, a step down wherever a cell is lost.
        axis.step(
            cells.value(thresholds),
            share,
            where="pre",
            color=look.colour,
            linestyle=look.dash,
            label=defense,
            linewidth=1.2,
        )
    if cells.log:
        axis.set_xscale("log")
    if cells.ranking.better == "lower":
        axis.invert_xaxis()
    under_attack = " under the strongest attacker" if cells.attacked else ""
    axis.set(
        xlabel=f"{cells.quantity.title}{under_attack}",
        ylabel="share of tasks × seeds\nthat do at least so well",
        ylim=(-0.03, 1.03),
    )
    figure.legend(loc="outside right upper", fontsize=8)
    return save(figure, out / f"{cells.grid.name}_profile")


def curves(frame: pd.DataFrame, grid: Grid, out: Path, quantities: Sequence[str] = ()) -> Path | None:
    """Draw the default curves of a grid into the folder `out`: the `quantities`, else its ranking value, else each
    quantity that is measured at several steps, against steps; a column for each attacker, a line for each defense, mean
    over tasks and seeds (geometric on a log scale). frame: the grid's records. quantities: names. None where nothing is
    measured at several steps."""
    measured = frame[(frame["status"] == "ok") & frame["step"].notna() & frame["concept"].isna()]
    measured = measured[measured["value"].notna() & measured["attacker"].notna()]
    by_quantity = measured.groupby(QUANTITY, dropna=False, sort=False)
    measured = measured[by_quantity["step"].transform("nunique") > 1]
    wanted = quantities or [str(grid.ranking.value["metric"]) if grid.ranking else ""]
    if measured["metric"].isin(wanted).any():
        measured = measured[measured["metric"].isin(wanted)]
    if measured.empty:
        return None
    rows = list(measured.groupby(QUANTITY, dropna=False, sort=False))
    attackers = [label for label in grid.attackers if (measured["attacker"] == label).any()]
    wide = min(len(attackers), WIDE) if len(rows) == 1 else len(attackers)
    panels = [(quantity, attacker) for quantity in rows for attacker in attackers]
    lines = -(-len(panels) // wide)
    figure = Figure(figsize=(3.0 * wide + 0.6, 2.4 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, wide, squeeze=False, sharex=True, sharey="row" if len(rows) > 1 else True)
    for place, (axis, ((coordinates, values), attacker)) in enumerate(zip(axes.flat, panels, strict=False)):
        _, metric, *further = (None if pd.isna(part) else str(part) for part in tuple[Any, ...](coordinates))
        _lines(axis, values[values["attacker"] == attacker], grid, str(metric))
        axis.set_title(attacker, fontsize=9)
        axis.set_xscale("symlog", linthresh=1)
        axis.minorticks_off()
        if place + wide >= len(panels):
            axis.set_xlabel("steps")
            axis.tick_params(labelbottom=True)
        if place % wide == 0:
            title = quantity_of(grid, str(metric)).title
            axis.set_ylabel(" ".join([title, *(part for part in further if part)]), fontsize=9)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    return save(figure, out / f"{grid.name}_steps")


def _lines(axis: Axes, values: pd.DataFrame, grid: Grid, metric: str) -> None:
    """Draw a line for each defense."""
    log = quantity_of(grid, metric).scale == "log"
    for defense, look in looks.of_grid(grid).items():
        line = values[values["defense"] == defense]
        numbers = line["value"].astype(float)
        scaled = logarithms(numbers) if log else numbers
        mean = scaled.groupby(line["step"].astype(int)).mean()
        if len(mean):
            style: dict[str, Any] = {
                "color": look.colour,
                "marker": look.marker,
                "linestyle": look.dash,
                "markersize": 4,
            }
            axis.plot(mean.index, np.exp(mean) if log else mean, label=defense, **style)
    if log:
        axis.set_yscale("log")
