"""Protection at equal retention: defenses compared at the strength at which each retains the same share.

A swept defense is a curve over its strength, from the undefended model (strength zero) to its strongest row. Where the
curve first falls below the target retention, its score is interpolated linearly between the two neighbouring strengths.
A defense with one row is a point: it is compared if it retains the target, else it is listed separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pandas as pd

from harness.leaderboard.retention import RETENTION
from harness.leaderboard.scores import Scores
from harness.suite import Grid

Kind = Literal["retains", "interpolated", "strongest retains", "harms", "unknown"]


class Place(NamedTuple):
    """Where a defense is compared.

    kind: `retains`: a single row that retains the target; `interpolated`: a sweep between two strengths; `strongest
    retains`: a sweep of which all rows retain the target, compared at the strongest, so a lower bound; `harms`: a
    single row that retains less, which is listed separately; `unknown`: no retention was measured. mix: the rows that
    are interpolated with their weights, the undefended row as strength zero. binding: of an interpolated sweep, the
    kind of retention that falls below the target first, a column of `retention.relative`.
    """

    kind: Kind
    mix: Mapping[str, float]
    binding: Any = None

    def blend(self, values: pd.Series) -> float:
        """The interpolated value. values: by row."""
        return float(sum(weight * values[row] for row, weight in self.mix.items()))


def places(kept: pd.DataFrame, grid: Grid, target: float = RETENTION) -> dict[str, Place]:
    """Where each defense of a grid is compared: by label of a single row, or of a sweep in place of its rows.

    kept: relative retention by cell, see `retention.relative`. target: the retention, relative to the undefended model;
    a row retains it if each kind of retention does, on the mean over cells. Of a sweep the first strength that does not
    ends it, even if a stronger one does again.
    """
    swept = {label: sweep for sweep, labels in grid.sweeps.items() for label in labels}
    means: pd.DataFrame = kept.groupby("defense").mean().dropna(axis=1, how="all")
    found: dict[str, Place] = {}
    for row in dict.fromkeys(swept.get(label, label) for label in grid.defenses):
        if row in grid.sweeps:
            found[row] = _on_curve(means, [label for label in grid.sweeps[row] if label in grid.defenses], grid, target)
        elif row not in means.index or means.loc[row].isna().all():
            found[row] = Place("unknown", {row: 1.0})
        else:
            found[row] = Place("retains" if means.loc[row].min() >= target - 1e-9 else "harms", {row: 1.0})
    return found


def _on_curve(means: pd.DataFrame, strengths: Sequence[str], grid: Grid, target: float) -> Place:
    """Where a sweep is compared. means: relative retention by row."""
    undefended = next(iter(grid.undefended), None)
    if undefended is None:
        return Place("unknown", {strengths[-1]: 1.0})
    known = set(means.dropna(how="all").index)
    for weaker, stronger in zip([undefended, *strengths], strengths, strict=False):
        if not {weaker, stronger} <= known:
            return Place("unknown", {strengths[-1]: 1.0})
        pairs = zip(means.columns, means.loc[weaker], means.loc[stronger], strict=True)
        weights = {kind: (low - target) / (low - high) for kind, low, high in pairs if high < target}
        if weights:
            binding = min(weights, key=lambda kind: weights[kind])
            return Place("interpolated", {weaker: 1 - weights[binding], stronger: weights[binding]}, binding)
    return Place("strongest retains", {strengths[-1]: 1.0})


def at_equal_retention(scores: Scores, found: Mapping[str, Place], kept: pd.DataFrame) -> Scores:
    """The scores of defenses at equal retention, without the rows that are listed separately.

    scores: of all rows of a grid. found: see `places`. kept: as there.
    """
    by_cell = scores.by_cell.unstack("defense")
    parts = {row: _interpolated(by_cell, place, kept) for row, place in found.items() if place.kind != "harms"}
    wide = pd.DataFrame(parts, index=by_cell.index).rename_axis(columns="defense")
    long: pd.Series = wide.stack(future_stack=True)  # type: ignore[assignment]
    exact = frozenset(row for row in parts if set(found[row].mix) <= scores.exact)
    long = long.reorder_levels([2, 0, 1]).rename("score")
    return replace(scores, rows=list(parts), by_cell=long, exact=exact)


def _interpolated(by_cell: pd.DataFrame, place: Place, kept: pd.DataFrame) -> pd.Series:
    """The scores of one defense by task and seed.

    The cells' retention varies too, so the score of each cell is moved along the curve by the deviation of its own
    retention. This leaves the mean as it is, and makes the variance of the cells that of the interpolated score (the
    delta method).
    """
    if place.kind != "interpolated":
        return by_cell[next(iter(place.mix))]
    (weaker, low), (stronger, high) = place.mix.items()
    retention = _aligned(kept[place.binding].unstack("defense"), by_cell.index)
    score = low * by_cell[weaker] + high * by_cell[stronger]
    share = low * retention[weaker] + high * retention[stronger]
    rise = by_cell[stronger].mean() - by_cell[weaker].mean()
    slope = rise / (retention[stronger].mean() - retention[weaker].mean())
    return score - slope * (share - share.mean())


def _aligned(retention: pd.DataFrame, cells: pd.Index) -> pd.DataFrame:
    """Retention by task and seed on other `cells`; one that was measured for a single seed stands for every seed."""
    of_task = retention.groupby("task").mean().reindex(cells.get_level_values("task")).set_axis(cells)
    return retention.reindex(cells).fillna(of_task)
