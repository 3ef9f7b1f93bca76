"""Plots of protection, as PNG: costs to break with their intervals, strength curves and survival curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.leaderboard import looks
from harness.leaderboard.headline import RETAINED, budget, in_order, shown, with_control
from harness.leaderboard.looks import CONTROL, Look
from harness.leaderboard.plots import (
    APART,
    MIN_CELLS,
    PAGE,
    PAPER,
    directed,
    legend,
    panels,
    plain_log,
    save,
    style,
    wrapped,
)
from harness.leaderboard.protection import Protection
from harness.leaderboard.retention import RETENTION
from harness.leaderboard.strength import strengths
from harness.suite import Grid

KEY = "#444444"
"""Colour of the legend's signs, which are no defense's."""
WIDEST = 30
"""An axis ends at this multiple of the largest ratio, however wide its interval is."""
RATIO = directed("cost to break over that\nof the undefended model", "higher")
PANEL = 2.2
"""Least width of a panel, in inches."""
NAME = 26
"""Letters in a line of the name of a threat model."""


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


@PAPER
def intervals(found: Sequence[Protection], width: float | None = None) -> Figure | None:
    """Each defense's cost to break as a multiple of the undefended model's: a panel for each threat model, rows in the
    order of the headline. found: see `headline.shown`. width: in inches, as for a column (3.3) of a paper; None: of a
    page (7). None is returned where there is only the undefended row."""
    if not found:
        return None
    controls = found[0].table.set_index("defense")["control"]
    order = [row for row in in_order(found) if controls[row] != "undefended"]
    if not order:
        return None
    width = width or PAGE
    names = [wrapped(with_control(row, controls[row]), int(5 * width)) for row in order[::-1]]
    line = 0.06 + 0.12 * max(name.count("\n") + 1 for name in names)
    all_looks = looks.of_grid(found[0].costs.grid)
    figure, axes = _panels(found, line * len(order) + 0.9, x=RATIO, width=width)
    for axis, one in zip(axes, found, strict=True):
        rows = one.table.set_index("defense").loc[order]
        for place, (name, row) in enumerate(rows.iterrows()):
            _draw_ratio(axis, row, len(order) - 1 - place, all_looks[str(name)])
        axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(order)), names)
        axis.set_ylim(-0.6, len(order) - 0.4)
        _log(axis.xaxis, rows)
    legend(figure, [], last=_keys(found))
    return figure


def _draw_ratio(axis: Axes, row: pd.Series, y: int, look: Look) -> None:
    """Draw one ratio with both intervals; an arrow where it is a lower bound. row: of `Protection.table`."""
    if pd.isna(row["ratio"]):
        return
    colour = look.colour
    for kind, width in (("tasks", 1.0), ("ci", 3.0)):
        if not pd.isna(row[f"{kind}_low"]):
            high = row["ratio"] if row["censored"] == 1 else row[f"{kind}_high"]
            axis.plot([row[f"{kind}_low"], high], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    if row["censored"] > 0:
        arrow = {"arrowstyle": "<-", "color": colour, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        end = row["ratio"] if row["censored"] == 1 or pd.isna(row["ci_high"]) else row["ci_high"]
        axis.annotate("", (end, y), (12, 0), textcoords="offset points", arrowprops=arrow)
    face = "white" if row["kind"] == "harms" else colour
    axis.plot(row["ratio"], y, look.marker, color=colour, markerfacecolor=face, markersize=5, zorder=3)


def _keys(found: Sequence[Protection]) -> list[Line2D]:
    """What the legend explains."""
    tables = pd.concat([one.table for one in found])
    keys = [Line2D([], [], color=KEY, linewidth=3, label="95 %, other seeds")]
    if tables["tasks_low"].notna().any():
        keys.append(Line2D([], [], color=KEY, linewidth=1, label="95 %, other tasks"))
    if (tables["control"] == "control").any():
        keys.append(Line2D([], [], color=CONTROL, marker="o", linestyle="", label="control"))
    if (tables["kind"] == "harms").any():
        label = f"retains less than {RETAINED}"
        keys.append(Line2D([], [], color=KEY, marker="o", markerfacecolor="white", linestyle="", label=label))
    if (tables["censored"] > 0).any():
        keys.append(Line2D([], [], color=KEY, marker=r"$\rightarrow$", markersize=10, linestyle="", label="or more"))
    return keys


@PAPER
def strength(found: Sequence[Protection], grid: Grid, out: Path) -> Path | None:
    """Draw protection against retention: a panel for each threat model, a line for each sweep from the undefended model
    on, a point for each single row. found: see `headline.shown`. None without sweeps or retention."""
    if not found or not grid.sweeps or found[0].kept.isna().all(axis=None):
        return None
    figure, axes = _panels(found, 2.2, x="retention (higher is better)", y=RATIO, shared=False)
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
        _log(axis.yaxis, points)
    adapted = Line2D([], [], color=KEY, marker="o", markerfacecolor="white", linestyle="--")
    adapted.set_label("after benign fine-tuning")
    legend(figure, axes, last=[adapted] if found[0].adapted.notna().any(axis=None) else [])
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


@PAPER
def survival(found: Sequence[Protection], grid: Grid, out: Path) -> Path | None:
    """Draw Kaplan–Meier curves: the share of cells that are not yet broken against the cost, a panel for each threat
    model, a line for each defense; a sweep is shown at the strength that weighs most. found: see `headline.shown`.
    None where there are too few cells."""
    if max((one.costs.least.groupby("defense").count().max() for one in found), default=0) < MIN_CELLS:
        return None
    figure, axes = _panels(found, 1.8, y=directed("share of cells\nthat are not broken", "higher"))
    all_looks = looks.of_grid(grid)
    for axis, one in zip(axes, found, strict=True):
        start = float(one.costs.least.min())
        for defense, where in one.places.items():
            row = max(where.mix, key=lambda label: where.mix[label])
            at, shares = one.costs.survival(row)
            axis.step(
                [min(start, one.costs.budget / 2), *at, one.costs.budget],
                [1, *shares, *(shares[-1:] if len(shares) else [1])],
                where="post",
                label=str(defense) if row == defense else row,
                markevery=APART,
                **style(all_looks[row]),
            )
        axis.set(xlabel=wrapped(f"cost, of {budget(one)}", NAME), ylim=(-0.03, 1.03))
        plain_log(axis.xaxis, start, one.costs.budget)
    legend(figure, axes)
    return save(figure, out / f"{grid.name}_survival")


def _panels(
    found: Sequence[Protection], height: float, x: str = "", y: str = "", width: float = PAGE, shared: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each threat model. height: of a panel, in inches. x, y: the labels of the lowest and of
    the first panels. shared: whether all panels have the vertical axis of the first."""
    columns = max(1, int(width / PANEL))
    figure, axes = panels(len(found), columns, height, width)
    for place, (axis, one) in enumerate(zip(axes, found, strict=True)):
        is_first, is_lowest = place % columns == 0, place + columns >= len(found)
        axis.set(title=wrapped(one.costs.name, NAME), xlabel=x if is_lowest else "", ylabel=y if is_first else "")
        axis.tick_params(labelleft=is_first or not shared)
    return figure, axes


def _log(axis: Axis, rows: pd.DataFrame) -> None:
    """Give an axis a logarithmic scale over ratios, their intervals and 1. rows: with columns as `Protection.table`."""
    ratios = np.append(rows["ratio"].astype(float), 1.0)
    low, high = np.nanmin(ratios), np.nanmax(ratios)
    ends = np.append(rows[["ci_low", "ci_high"]].astype(float), ratios)  # of one seed there is no interval
    plain_log(axis, max(np.nanmin(ends), low / WIDEST), min(np.nanmax(ends), high * WIDEST))
