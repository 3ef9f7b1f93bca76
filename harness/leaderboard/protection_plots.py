"""Plots of protection, as PNG: costs to break with their intervals, strength curves and survival curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.leaderboard import looks
from harness.leaderboard.headline import RETAINED, budget, in_order, shown, with_control
from harness.leaderboard.looks import CONTROL, Look
from harness.leaderboard.plots import MIN_CELLS, TEXT, save
from harness.leaderboard.protection import Protection
from harness.leaderboard.retention import RETENTION
from harness.leaderboard.strength import strengths
from harness.suite import Grid

KEY = "#444444"
"""Colour of the legend's signs, which are no defense's."""
WIDEST = 30
"""An axis ends at this multiple of the largest ratio, however wide its interval is."""
RATIO = "cost to break over that\nof the undefended model"


def draw(found: Sequence[Protection], grid: Grid, out: Path) -> Iterator[Path]:
    """Draw the plots of a grid into the folder `out`. found: the protection against each threat model. Yields the
    files; none where no cost to break is known."""
    for plot in (costs, strength, survival):
        path = plot(shown(found), grid, out)
        if path is not None:
            yield path


def costs(found: Sequence[Protection], grid: Grid, out: Path) -> Path | None:
    """Draw `intervals` into a file."""
    figure = intervals(found)
    return None if figure is None else save(figure, out / f"{grid.name}_protection")


def intervals(found: Sequence[Protection], width: float | None = None) -> Figure | None:
    """Each defense's cost to break as a multiple of the undefended model's: a panel for each threat model, rows in the
    order of the headline. found: see `headline.shown`. width: in inches, with texts of 8 points, as for a column (3.3)
    or a page (7) of a paper; None: as wide as the panels. None is returned where there is only the undefended row."""
    if not found:
        return None
    controls = found[0].table.set_index("defense")["control"]
    order = [row for row in in_order(found) if controls[row] != "undefended"]
    if not order:
        return None
    with mpl.rc_context({} if width is None else TEXT):
        height = 0.34 * len(order) + 1.7 if width is None else 0.2 * len(order) + 0.9
        figure, axes = _panels(found, height, width)
        all_looks = looks.of_grid(found[0].costs.grid)
        for axis, one in zip(axes, found, strict=True):
            rows = one.table.set_index("defense").loc[order]
            for place, (name, row) in enumerate(rows.iterrows()):
                _draw_ratio(axis, row, len(order) - 1 - place, all_looks[str(name)])
            axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
            axis.set(title=one.costs.name, xlabel=RATIO, ylim=(-0.6, len(order) - 0.4))
            _log(axis.xaxis, rows)
            axis.label_outer()
        names = [with_control(row, controls[row]) for row in order]
        axes[0].set_yticks(range(len(order)), names[::-1])
        ncols = 3 if width is None else max(1, int(width / 2.2))
        figure.legend(handles=_keys(found), loc="outside lower center", ncols=ncols, fontsize=8)
    return figure


def _draw_ratio(axis: Axes, row: pd.Series, y: int, look: Look) -> None:
    """Draw one ratio with both intervals; an arrow where it is a lower bound. row: of `Protection.table`."""
    if pd.isna(row["ratio"]):
        return
    colour = look.colour
    for kind, width in (("tasks", 1.0), ("ci", 4.0)):
        if not pd.isna(row[f"{kind}_low"]):
            high = row["ratio"] if row["censored"] == 1 else row[f"{kind}_high"]
            axis.plot([row[f"{kind}_low"], high], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    if row["censored"] > 0:
        arrow = {"arrowstyle": "<-", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
        end = row["ratio"] if row["censored"] == 1 or pd.isna(row["ci_high"]) else row["ci_high"]
        axis.annotate("", (end, y), (20, 0), textcoords="offset points", arrowprops=arrow)
    face = "white" if row["kind"] == "harms" else colour
    axis.plot(row["ratio"], y, look.marker, color=colour, markerfacecolor=face, markersize=7, zorder=3)


def _keys(found: Sequence[Protection]) -> list[Line2D]:
    """What the legend explains."""
    tables = pd.concat([one.table for one in found])
    keys = [Line2D([], [], color=KEY, linewidth=4, label="95 %, other seeds")]
    if tables["tasks_low"].notna().any():
        keys.append(Line2D([], [], color=KEY, linewidth=1, label="95 %, other tasks"))
    if (tables["control"] == "control").any():
        keys.append(Line2D([], [], color=CONTROL, marker="o", linestyle="", label="control"))
    if (tables["kind"] == "harms").any():
        label = f"retains less than {RETAINED}"
        keys.append(Line2D([], [], color=KEY, marker="o", markerfacecolor="white", linestyle="", label=label))
    if (tables["censored"] > 0).any():
        keys.append(Line2D([], [], color=KEY, marker=r"$\rightarrow$", markersize=12, linestyle="", label="or more"))
    return keys


def strength(found: Sequence[Protection], grid: Grid, out: Path) -> Path | None:
    """Draw protection against retention: a panel for each threat model, a line for each sweep from the undefended model
    on, a point for each single row. found: see `headline.shown`. None without sweeps or retention."""
    if not found or not grid.sweeps or found[0].kept.isna().all(axis=None):
        return None
    figure, axes = _panels(found, 3.9)
    all_looks = looks.of_grid(grid)
    for axis, one in zip(axes, found, strict=True):
        points = strengths(one)
        for defense, rows in points.groupby("defense", sort=False):
            if rows["control"].iloc[0] != "undefended":
                look = all_looks[str(defense)]
                _draw_curve(axis, rows, "retention", look, str(defense))
                _draw_curve(axis, rows, "adapted", look, None)
        axis.axvline(RETENTION, color="black", linewidth=0.8, linestyle=":")
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.plot(1, 1, "s", color="black", label="undefended")
        axis.set(title=one.costs.name, xlabel="retention")
        _log(axis.yaxis, points)
    axes[0].set_ylabel(RATIO)
    keys, names = axes[0].get_legend_handles_labels()
    if found[0].adapted.notna().any(axis=None):
        keys.append(Line2D([], [], color="gray", marker="o", markerfacecolor="white", linestyle="--"))
        names.append("after benign fine-tuning")
    figure.legend(keys, names, loc="outside lower center", ncols=3, fontsize=8)
    return save(figure, out / f"{grid.name}_strength")


def _draw_curve(axis: Axes, rows: pd.DataFrame, name: str, look: Look, label: str | None) -> None:
    """Draw the points of one defense with their intervals, and through those of a sweep a line from the undefended
    model. rows: of `strengths`. name: `retention` or `adapted`."""
    rows = rows[rows[[name, "ratio"]].notna().all(axis=1)].astype({name: float, "ratio": float})
    if rows.empty:
        return
    x, y = rows[name].to_numpy(), rows["ratio"].to_numpy()
    released = name == "retention"
    style: dict[str, Any] = {
        "fmt": look.marker,
        "color": look.colour,
        "markerfacecolor": look.colour if released else "white",
        "elinewidth": 0.8,
    }
    axis.errorbar(x, y, yerr=_bars(rows, "ratio", "ci"), xerr=_bars(rows, name, f"{name}_ci"), **style, label=label)
    if len(rows) > 1:
        axis.plot([1, *x], [1, *y], color=look.colour, linewidth=1.2, linestyle="-" if released else "--")


def _bars(rows: pd.DataFrame, name: str, ends: str) -> list[Any]:
    """The lengths of error bars of the column `name`, from `ends`_low to `ends`_high; 0 where there is no interval."""
    value = rows[name].astype(float)
    return [abs(rows[f"{ends}_{side}"].astype(float).fillna(value) - value) for side in ("low", "high")]


def survival(found: Sequence[Protection], grid: Grid, out: Path) -> Path | None:
    """Draw Kaplan–Meier curves: the share of cells that are not yet broken against the cost, a panel for each threat
    model, a line for each defense; a sweep is shown at the strength that weighs most. found: see `headline.shown`.
    None where there are too few cells."""
    if max((one.costs.least.groupby("defense").count().max() for one in found), default=0) < MIN_CELLS:
        return None
    figure, axes = _panels(found, 3.6)
    all_looks = looks.of_grid(grid)
    for axis, one in zip(axes, found, strict=True):
        start = float(one.costs.least.min())
        for defense, where in one.places.items():
            row = max(where.mix, key=lambda label: where.mix[label])
            at, shares = one.costs.survival(row)
            look = all_looks[row]
            axis.step(
                [min(start, one.costs.budget / 2), *at, one.costs.budget],
                [1, *shares, *(shares[-1:] if len(shares) else [1])],
                where="post",
                color=look.colour,
                linestyle=look.dash,
                linewidth=1.4,
                label=str(defense) if row == defense else row,
            )
        axis.set(title=one.costs.name, xlabel=f"cost, of {budget(one)}", ylim=(-0.03, 1.03))
        _scale(axis.xaxis, start, one.costs.budget)
    axes[0].set_ylabel("share of cells\nthat are not broken")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return save(figure, out / f"{grid.name}_survival")


def _panels(found: Sequence[Protection], height: float, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each threat model beside each other; in a `width` (inches) that is too narrow for them,
    below each other. height: of a panel, in inches. width: None: as wide as the panels."""
    beside = width is None or width >= 2.2 * len(found)
    lines, columns = (1, len(found)) if beside else (len(found), 1)
    size = (3.4 * len(found) + 1.8 if width is None else width, height * lines)
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(lines, columns, squeeze=False, sharex=not beside, sharey=True).flat)


def _log(axis: Any, rows: pd.DataFrame) -> None:
    """Give an axis a logarithmic scale over ratios, their intervals and 1. rows: with columns as `Protection.table`."""
    ratios = np.append(rows["ratio"].astype(float), 1.0)
    low, high = np.nanmin(ratios), np.nanmax(ratios)
    ends = np.append(rows[["ci_low", "ci_high"]].astype(float), ratios)  # of one seed there is no interval
    _scale(axis, max(np.nanmin(ends), low / WIDEST), min(np.nanmax(ends), high * WIDEST))


def _scale(axis: Any, low: float, high: float) -> None:
    """Give an axis a logarithmic scale from `low` to `high`, with plain numbers."""
    room = max((high / low) ** 0.08, 1.03)
    low, high = low / room, high * room
    digits = (1,) if high > 300 * low else (1, 2, 5) if high > 8 * low else (1, 1.2, 1.5, 2, 3, 5, 7)
    ticks = (digit * 10.0**power for power in range(-6, 8) for digit in digits)
    axis._set_axes_scale("log")
    axis.set_view_interval(low, high, ignore=True)
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axis.set_minor_locator(NullLocator())
