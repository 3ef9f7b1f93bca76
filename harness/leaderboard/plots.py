"""Plots beside a board's tables, as PNG: performance profiles, and default curves of any track."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.leaderboard import looks
from harness.leaderboard.scores import QUANTITY, Cells, quantity_of, selected
from harness.leaderboard.stats import performance_profile
from harness.metric import Quantity
from harness.suite import Grid

WIDE = 4
"""Panels beside each other."""
TEXT: Any = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8}
"""Texts of 8 points, in a figure of about a page's width."""
SPREAD = 100
LEAST = 1e-8
"""Values on a logarithmic scale are drawn at least here: an attack that has converged is at the level of rounding."""
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


def curves(long: pd.DataFrame, grid: Grid, out: Path, quantities: Sequence[str] = ()) -> Path | None:
    """Draw the default curves of a grid into the folder `out`: the `quantities`, else its ranking value, else each
    quantity that is measured at several steps, against steps; a panel for each attacker, a line for each defense with
    its mean and a band of 95 % for other seeds. long: the grid's long-form board. quantities: names. None where nothing
    is measured at several steps."""
    measured = long[long["step"].notna() & long["concept"].isna() & long["value"].notna()]
    measured = measured[measured["attacker"].isin(list(grid.attackers))]
    by_quantity = measured.groupby(QUANTITY, dropna=False, sort=False)
    measured = measured[by_quantity["step"].transform("nunique") > 1]
    wanted = measured["metric"].isin(quantities)
    if not quantities and grid.ranking is not None:
        wanted = selected(measured, grid.ranking.value)
    measured = measured[wanted] if wanted.any() else measured
    if measured.empty:
        return None
    rows = list(measured.groupby(QUANTITY, dropna=False, sort=False))
    attackers = [label for label in grid.attackers if (measured["attacker"] == label).any()]
    wide = min(len(attackers), WIDE)
    lines = -(-len(attackers) // wide)
    with mpl.rc_context(TEXT):
        figure = Figure(figsize=(1.6 * wide + 0.6, 1.7 * lines * len(rows) + 0.8), layout="constrained")
        axes = figure.subplots(lines * len(rows), wide, squeeze=False)
        for part, (coordinates, values) in zip(np.split(axes, len(rows)), rows, strict=True):
            _panels(list(part.flat), values, attackers, grid, tuple[Any, ...](coordinates))
        keys = {name: key for axis in axes.flat for key, name in zip(*axis.get_legend_handles_labels(), strict=True)}
        order = [row for row in looks.of_grid(grid) if row in keys]
        figure.legend([keys[row] for row in order], order, loc="outside lower center", ncols=2 + wide // 2)
    return save(figure, out / f"{grid.name}_steps")


def _panels(
    axes: list[Axes], values: pd.DataFrame, attackers: list[str], grid: Grid, coordinates: tuple[Any, ...]
) -> None:
    """Draw a quantity: a panel for each attacker, `WIDE` in a line."""
    _, metric, *further = (None if pd.isna(part) else str(part) for part in coordinates)
    title = " ".join([quantity_of(grid, str(metric)).title, *(part for part in further if part)])
    wide, steps = min(len(attackers), WIDE), sorted(values["step"].astype(int).unique())
    ticks = steps[:: -max(1, -(-len(steps) // 4))]
    log = on_log_scale(values["value"], quantity_of(grid, str(metric)))
    for place, (axis, attacker) in enumerate(zip(axes, attackers, strict=False)):
        if place:
            axis.sharex(axes[0])
            axis.sharey(axes[0])
            axis.tick_params(labelleft=place % wide == 0)
        _lines(axis, values[values["attacker"] == attacker], grid, log)
        axis.set_title(_in_two_lines(attacker))
        axis.set_xscale("symlog", linthresh=1)
        axis.minorticks_off()
        axis.set_xticks(ticks, ticks)
        axis.set_xlabel("steps" if place + wide >= len(attackers) else "")
        axis.set_ylabel(title if place % wide == 0 else "")
    for axis in axes[len(attackers) :]:
        axis.remove()


def on_log_scale(values: pd.Series, quantity: Quantity) -> bool:
    """Whether an axis of these values is logarithmic: by the quantity's scale, or because none is negative, but for
    rounding, and the largest one is more than `SPREAD` times the median."""
    numbers = values.dropna().astype(float)
    return quantity.scale == "log" or bool(numbers.min() > -LEAST and numbers.max() > SPREAD * numbers.median() > 0)


def _in_two_lines(name: str) -> str:
    """A name of more than 20 letters, broken after an underscore."""
    head, _, tail = name[:20].rpartition("_")
    return f"{head}_\n{tail}{name[20:]}" if len(name) > 20 and head else name


def _lines(axis: Axes, values: pd.DataFrame, grid: Grid, log: bool) -> None:
    """Draw a line and a band for each defense. log: on a logarithmic scale."""
    for defense, look in looks.of_grid(grid).items():
        line = values[values["defense"] == defense].sort_values("step")
        if line.empty:
            continue
        steps, mean, low, high = (line[name].to_numpy(float) for name in ("step", "value", "ci_low", "ci_high"))
        mean, low, high = (np.maximum(part, LEAST) if log else part for part in (mean, low, high))
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": look.dash, "markersize": 4}
        axis.plot(steps, mean, label=defense, **style)
        if np.isfinite(low).any():
            axis.fill_between(steps, low, high, color=look.colour, alpha=0.15, linewidth=0)
    if log:
        axis.set_yscale("log")
