"""Whether the metrics that papers report of released models predict protection: each against the cost to break."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.leaderboard import looks
from harness.leaderboard.cost_to_break import Costs
from harness.leaderboard.plots import PAPER, legend, panels, plain_log, save, style, wrapped
from harness.leaderboard.protection_plots import RATIO
from harness.leaderboard.scores import named, quantity_of, selected
from harness.leaderboard.stats import logarithms, rank_correlation
from harness.ranking import Selector
from harness.records import Records
from harness.suite import Grid

WIDE = 3
"""Panels beside each other."""
MIN_DEFENSES = 6
"""Of fewer defenses no correlation is given."""
COLUMNS = (
    "threat_model", "unit", "metric", "role", "variant", "split", "correlation", "low", "high", "n_defenses", "n_tasks"
)  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """A metric of the released models of a grid against the cost to break under one threat model.

    costs: the costs to break. selector: the metric. metric, protection: a row for each row of the grid, a column for
    each task, means over seeds: of the metric, of its logarithm where its scale is log; and of the logarithm of the
    cost to break over that of the undefended model. NaN is missing.
    """

    costs: Costs
    selector: Selector
    metric: pd.DataFrame
    protection: pd.DataFrame

    @property
    def grid(self) -> Grid:
        """The grid."""
        return self.costs.grid

    @property
    def log(self) -> bool:
        """Whether `metric` holds logarithms."""
        return quantity_of(self.grid, str(self.selector["metric"])).scale == "log"

    @property
    def name(self) -> str:
        """The metric as text."""
        return named(self.grid, {str(name): part for name, part in self.selector.items()})

    @cached_property
    def units(self) -> pd.Series:
        """The defense of each row: of the rows of a sweep the swept one."""
        swept = {row: sweep for sweep, rows in self.grid.sweeps.items() for row in rows}
        return pd.Series({row: swept.get(row, row) for row in self.metric.index})

    @cached_property
    def correlation(self) -> tuple[float, float, float]:
        """Spearman's correlation within each task, averaged over tasks, with its interval (see
        `stats.rank_correlation`)."""
        return rank_correlation(self.metric, self.protection, self.units)

    @property
    def size(self) -> dict[str, int]:
        """The numbers of defenses and tasks."""
        return {"defense": self.units.nunique(), "task": len(self.metric.columns)}

    @property
    def text(self) -> str:
        """The correlation with its interval as text."""
        r, low, high = self.correlation
        if np.isnan(r):
            return "none (all values of a side are equal)"
        return f"{r:.2f}" if np.isnan(low) else f"{r:.2f} [{low:.2f}, {high:.2f}]"

    @property
    def row(self) -> dict[str, Any]:
        """The result as a row of a table, columns `COLUMNS` after the grid's place."""
        place = {name: self.selector.get(name) for name in ("metric", "role", "variant", "split")}
        values = self.costs.name, self.costs.model.unit, *place.values(), *self.correlation
        return {**self.costs.at, **dict(zip(COLUMNS, (*values, *self.size.values()), strict=True))}


def read(records: Records, grid: Grid, costs: Mapping[str, Costs]) -> list[Prediction]:
    """The predictions of each threat model, but those that are evidence only, by each of the grid's `predictors`; none
    where fewer than `MIN_DEFENSES` defenses have both. costs: see `cost_to_break.read`."""
    predictors = grid.ranking.predictors if grid.ranking else []
    models = [one for one in costs.values() if not one.model.evidence]
    made = (_prediction(records, grid, one, selector) for one in models for selector in predictors)
    return [one for one in made if one is not None]


def _prediction(records: Records, grid: Grid, costs: Costs, selector: Selector) -> Prediction | None:
    frame = records.frame[(records.frame["grid"] == grid.name) & records.frame["attacker"].isna()]
    released = frame[(frame["status"] == "ok") & selected(frame, selector)]
    values = released["value"].astype(float)
    values = logarithms(values) if quantity_of(grid, str(selector["metric"])).scale == "log" else values
    values = values[np.isfinite(values)]
    metric = values.groupby([released["defense"], released["task"]]).mean().unstack("task")
    scores = costs.scores
    protection = scores.by_cell.groupby(["defense", "task"]).mean().unstack("task")
    protection = (protection / scores.resolution).round() * scores.resolution
    both = metric.notna() & protection.notna()
    both = both.reindex([row for row in grid.defenses if row in both.index and both.loc[row].any()])
    both = both.loc[:, both.any()]
    made = Prediction(costs, selector, *(side.reindex_like(both).where(both) for side in (metric, protection)))
    return made if made.units.nunique() >= MIN_DEFENSES else None


def table(predictions: Sequence[Prediction]) -> pd.DataFrame | None:
    """A row for each prediction; None if there are none."""
    return pd.DataFrame([one.row for one in predictions]) if predictions else None


def lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """A line of text for each threat model."""
    for name, line in _by_threat_model(predictions).items():
        size = " × ".join(f"{n} {noun}{'s' if n > 1 else ''}" for noun, n in line[0].size.items())
        texts = "; ".join(f"{one.name} {one.text}" for one in line)
        yield f"prediction of the cost to break ({name}): rank correlation, {size}, controls among them: {texts}"


def _by_threat_model(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    by_name: dict[str, list[Prediction]] = {}
    for one in predictions:
        by_name.setdefault(one.costs.name, []).append(one)
    return by_name


@PAPER
def draw(predictions: Sequence[Prediction], out: Path) -> Path | None:
    """Draw the predictions of one grid that have a correlation into the folder `out`, a panel for each metric, those of
    a threat model together; None if there are none."""
    predictions = [one for one in predictions if not np.isnan(one.correlation[0])]
    if not predictions:
        return None
    grid = predictions[0].grid
    figure, axes = panels(len(predictions), WIDE, 2.1)
    for place, (axis, one) in enumerate(zip(axes, predictions, strict=True)):
        _draw_points(axis, one)
        title = f"{wrapped(f'{one.costs.name}: rank correlation', 30)}\n{one.text}"
        axis.set(title=title, xlabel=wrapped(one.name, 30))
        axis.set_ylabel(RATIO if place % WIDE == 0 else "")
    legend(figure, axes, first=list(looks.of_grid(grid)))
    return save(figure, out / f"{grid.name}_prediction")


def _draw_points(axis: Axes, one: Prediction) -> None:
    """Draw a point for each row and task."""
    x, y = one.metric.apply(np.exp) if one.log else one.metric, one.protection.apply(np.exp)
    for row, look in looks.of_grid(one.grid).items():
        if row in x.index:
            axis.plot(x.loc[row], y.loc[row], label=row, **{**style(look), "linestyle": ""})
    for scaled, values in ((axis.yaxis, y), *([(axis.xaxis, x)] if one.log else [])):
        plain_log(scaled, float(np.nanmin(values)), float(np.nanmax(values)))
