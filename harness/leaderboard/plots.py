"""Plots beside a board's tables, as PNG: performance profiles, default curves of any track, and what plots share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.leaderboard import looks
from harness.leaderboard.looks import Look
from harness.leaderboard.scores import QUANTITY, Cells, quantity_of, selected
from harness.leaderboard.stats import performance_profile
from harness.metric import Quantity
from harness.suite import Grid

COLUMN, PAGE = 3.3, 7.0
"""Widths of figures for a column and for a page of a paper, in inches."""
DPI = 200
WIDE = 4
"""Most panels beside each other."""
LETTERS = 13
"""About as many letters are an inch wide."""
PAPER = mpl.rc_context({
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8, "lines.linewidth": 1.2, "lines.markersize": 3.5,
})  # fmt: skip
"""Decorates a function that draws: its figures have texts of 8 points."""
APART = 0.15
"""Markers on a stepped line are this share of a panel's diagonal apart."""
SPREAD = 100
LEAST = 1e-8
"""Values on a logarithmic scale are drawn at least here: an attack that has converged is at the level of rounding."""
MIN_CELLS = 5
"""Fewer cells a defense make no distribution."""
ROLES = {
    "harmful": "on the harmful task", "benign": "on the benign task", "other": "on other tasks",
    "kept": "of further concepts", "kept train": "of concepts in captions", "kept heldout": "of held-out concepts",
    "composition": "of composed concepts",
}  # fmt: skip
SPLITS = {"train": "training rows", "heldout": "held-out rows"}
"""Roles and splits in words."""


def panels(count: int, columns: int, height: float, width: float = PAGE) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, at most `columns` beside each other. height: of a panel, in inches; a legend adds
    its own. width: of the figure, in inches."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(width, height * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def legend(figure: Figure, axes: Sequence[Axes], first: Sequence[str] = (), last: Sequence[Artist] = ()) -> None:
    """Put a legend of the labels in `axes` below them, in as many columns as the figure is wide, and make the figure as
    much higher. first: the labels that come first, in their order. last: further signs, with labels."""
    signs = {str(name): sign for axis in axes for sign, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    order = [*(name for name in first if name in signs), *(name for name in signs if name not in first)]
    signs |= {str(sign.get_label()): sign for sign in last}
    order += [str(sign.get_label()) for sign in last]
    names = [wrapped(name, int(LETTERS * figure.get_figwidth()) - 8) for name in order]
    for columns in range(len(names), 0, -1):
        made = figure.legend([signs[name] for name in order], names, loc="outside lower center", ncols=columns)
        if columns == 1 or made.get_window_extent().width < 0.98 * figure.bbox.width:
            break
        made.remove()
    figure.set_figheight(figure.get_figheight() + made.get_window_extent().height / figure.dpi + 0.1)


def style(look: Look) -> dict[str, Any]:
    """A defense's line, for matplotlib."""
    return {"color": look.colour, "marker": look.marker, "linestyle": look.dash}


def wrapped(text: str, letters: int) -> str:
    """A text in lines of at most `letters` letters, broken after spaces and underscores where it has some."""
    lines = [""]
    for part in re.findall(rf"[^ _]{{0,{letters - 1}}}.", text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > letters:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def save(figure: Figure, stem: Path) -> Path:
    """Write a figure to the file `stem` with the suffix .png, and return it."""
    path = stem.with_name(f"{stem.name}.png")
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def spelled(quantity: Quantity) -> str:
    """The title of a quantity; instead of an abbreviation the words with which its description begins."""
    words = re.findall(r"[\w-]+", quantity.description)[: len(quantity.title)]
    is_short = len(words) > 1 and "".join(word[0] for word in words).upper() == quantity.title
    return " ".join(words) if is_short else quantity.title


def in_words(grid: Grid, coordinates: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """What a number is, in words: its metric with those coordinates that tell it from others of `rows`."""
    same = rows[rows["metric"] == coordinates["metric"]]
    names = ("role", "variant", "split")
    telling = (same[name].nunique(dropna=False) > 1 and not pd.isna(coordinates[name]) for name in names)
    role, variant, split = (str(coordinates[name]) if tells else "" for name, tells in zip(names, telling, strict=True))
    role, split = (f"{role} {split}", "") if f"{role} {split}" in ROLES else (role, SPLITS.get(split, split))
    details = ", ".join(part for part in (variant, split) if part)
    parts = spelled(quantity_of(grid, str(coordinates["metric"]))), ROLES.get(role, role), details and f"({details})"
    return " ".join(part for part in parts if part)


def direction(grid: Grid, coordinates: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """The direction that a defender wants of a number: its metric's. That is the harmful task's, so on the benign task
    there is none where `rows` have both."""
    roles = set(rows.loc[rows["metric"] == coordinates["metric"], "role"].dropna())
    is_of_both = str(coordinates["role"]) == "benign" and "harmful" in roles
    return "" if is_of_both else quantity_of(grid, str(coordinates["metric"])).better


def directed(text: str, better: str) -> str:
    """The label of an axis with the direction that a defender wants, if there is one."""
    return f"{text}\n({better} is better)" if better else text


@PAPER
def profile(cells: Cells, out: Path) -> Path | None:
    """Draw each defense's worst cases as a performance profile (see `stats.performance_profile`) into the folder `out`;
    None where there are too few cells or all are equal."""
    worst = cells.worst.unstack("defense").reindex(columns=cells.defenses)
    scores = worst.to_numpy(float)
    thresholds = np.unique(scores[np.isfinite(scores)])
    if len(worst) < MIN_CELLS or len(thresholds) < 2 or np.ptp(thresholds) <= cells.ranking.resolution:
        return None
    figure, (axis,) = panels(1, 1, 2.4)
    all_looks = looks.of_grid(cells.grid)
    for defense in cells.defenses:
        look, share = all_looks[defense], performance_profile(worst[defense].to_numpy(), thresholds)
        # From what a defender wants least, a step down wherever a cell is lost.
        axis.step(cells.value(thresholds), share, where="pre", label=defense, markevery=APART, **style(look))
    if cells.log:
        axis.set_xscale("log")
    if cells.ranking.better == "lower":
        axis.invert_xaxis()
    under_attack = " under the strongest attacker" if cells.attacked else ""
    axis.set(
        xlabel=f"{spelled(cells.quantity)}{under_attack} ({cells.ranking.better} is better)",
        ylabel=directed("share of tasks × seeds\nthat do at least so well", "higher"),
        ylim=(-0.03, 1.03),
    )
    legend(figure, [axis])
    return save(figure, out / f"{cells.grid.name}_profile")


@PAPER
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
    wide = min(len(attackers) if len(attackers) > 1 else len(rows), WIDE)
    each = -(-len(attackers) // wide) * wide if len(attackers) > 1 else 1
    figure, axes = panels(each * len(rows), wide, 1.7, PAGE if wide > 1 else COLUMN)
    for place, (key, values) in enumerate(rows):
        coordinates = dict(zip(QUANTITY, tuple[Any, ...](key), strict=True))
        label = directed(wrapped(in_words(grid, coordinates, long), 20), direction(grid, coordinates, long))
        _panels(axes[place * each : (place + 1) * each], values, attackers, grid, label, wide)
    legend(figure, figure.axes, first=list(looks.of_grid(grid)))
    return save(figure, out / f"{grid.name}_steps")


def _panels(axes: list[Axes], values: pd.DataFrame, attackers: list[str], grid: Grid, label: str, wide: int) -> None:
    """Draw a quantity: a panel for each attacker, `wide` in a line. label: of the vertical axes."""
    steps = sorted(values["step"].astype(int).unique())
    ticks = steps[:: -max(1, -(-len(steps) // 4))]
    log = on_log_scale(values["value"], quantity_of(grid, str(values["metric"].iloc[0])))
    for place, (axis, attacker) in enumerate(zip(axes, attackers, strict=False)):
        if place:
            axis.sharex(axes[0])
            axis.sharey(axes[0])
            axis.tick_params(labelleft=place % wide == 0)
        _lines(axis, values[values["attacker"] == attacker], grid, log)
        axis.set_title(wrapped(attacker, 20))
        axis.set_xscale("symlog", linthresh=1)
        axis.minorticks_off()
        axis.set_xticks(ticks, ticks)
        axis.set_xlabel("steps" if place + wide >= len(attackers) else "")
        axis.set_ylabel(label if place % wide == 0 else "")
    for axis in axes[len(attackers) :]:
        axis.remove()


def on_log_scale(values: pd.Series, quantity: Quantity) -> bool:
    """Whether an axis of these values is logarithmic: by the quantity's scale, or because none is negative, but for
    rounding, and the largest one is more than `SPREAD` times the median."""
    numbers = values.dropna().astype(float)
    return quantity.scale == "log" or bool(numbers.min() > -LEAST and numbers.max() > SPREAD * numbers.median() > 0)


def _lines(axis: Axes, values: pd.DataFrame, grid: Grid, log: bool) -> None:
    """Draw a line and a band for each defense. log: on a logarithmic scale."""
    for defense, look in looks.of_grid(grid).items():
        line = values[values["defense"] == defense].sort_values("step")
        if line.empty:
            continue
        steps, mean, low, high = (line[name].to_numpy(float) for name in ("step", "value", "ci_low", "ci_high"))
        mean, low, high = (np.maximum(part, LEAST) if log else part for part in (mean, low, high))
        axis.plot(steps, mean, label=defense, **style(look))
        if np.isfinite(low).any():
            axis.fill_between(steps, low, high, color=look.colour, alpha=0.15, linewidth=0)
    if log:
        axis.set_yscale("log")


def plain_log(axis: Axis, low: float, high: float) -> None:
    """Give an axis a logarithmic scale from `low` to `high`, with plain numbers."""
    room = max((high / low) ** 0.1, 1.03)
    low, high = low / room, high * room
    span = high / low
    digits = (
        (1,) if span > 300 else (1, 2, 5) if span > 8 else (1, 1.5, 2, 3, 5) if span > 3 else (1, 1.2, 1.5, 2, 3, 5, 7)
    )
    ticks = (digit * 10.0**power for power in range(-6, 8, 1 + int(span > 1e5)) for digit in digits)
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    axis.set_view_interval(low, high, ignore=True)
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axis.set_minor_locator(NullLocator())
