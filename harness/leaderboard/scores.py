"""The values that rank a grid's defenses, cell by cell: what each attacker leaves of each defense, task and seed.

A *score* is such a value turned so that a defender wants it high, and its logarithm where its scale is log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from harness.costs import COST
from harness.leaderboard.stats import BOUNDS, intervals, limits, logarithms
from harness.metric import Quantity
from harness.ranking import Ranking, Selector
from harness.records import Records
from harness.suite import Grid

QUANTITY = ["measured_by", "metric", "role", "variant", "split"]
"""Columns of records that say what a number is."""
RELEASED = ""
"""Stands for an attacker where none attacks."""


@dataclass(frozen=True)
class Scale:
    """How values become scores. better: direction that a defender wants of the value. log: whether scores are
    logarithms."""

    better: str = "higher"
    log: bool = False

    def score(self, value: Any) -> Any:
        """The score of a value (a number or an array)."""
        scaled = np.log(value) if self.log else value
        return scaled if self.better == "higher" else -scaled

    def value(self, score: Any) -> Any:
        """The value of a score (a number or an array)."""
        scaled = score if self.better == "higher" else -score
        return np.exp(scaled) if self.log else scaled


@dataclass(frozen=True)
class Scores:
    """A score for each row and cell, on which rows are compared.

    at: `suite`, `suite_version`, `grid` and `track`, as columns of tables. rows: labels of the compared rows, in the
    suite's order. members: by task, its parts, see `Track.members`. by_cell: index defense × task × seed; NaN is
    missing. exact: the rows in which, attacks included, nothing is random. scale: how values became scores. resolution:
    smallest difference of scores that counts. unit: of the value.
    """

    at: Mapping[str, Any]
    rows: Sequence[str]
    members: Mapping[str, Sequence[str]]
    by_cell: pd.Series
    exact: frozenset[str]
    scale: Scale = Scale("higher", log=False)
    resolution: float = 0.0
    unit: str = ""

    def summary(self) -> pd.DataFrame:
        """Means with intervals (`value` and `BOUNDS`), a row for each row that is compared, as values."""
        flat = self.by_cell.rename("score").reset_index()
        seeds = flat["seed"].where(~flat["defense"].isin(self.exact))
        linear = pd.Series(False, flat.index)
        means = intervals(
            flat["defense"], flat["task"], seeds, flat["score"], linear, self.members, resolution=self.resolution
        )
        names = ["value", *BOUNDS]
        values: pd.DataFrame = means[names].apply(self.scale.value).reindex(self.rows)
        if self.scale.better == "lower":  # the lower bound of a score is the upper bound of its value
            values.columns = ["value", "ci_high", "ci_low", "tasks_high", "tasks_low"]
        return values[names].clip(*limits(self.unit))


@dataclass(frozen=True)
class Cells:
    """The values that rank the defenses of one grid.

    at: `suite`, `suite_version`, `grid` and `track`, as columns of tables. grid, ranking, quantity: what ranks and how
    it is read. coordinates: the ranking value's, by `QUANTITY`. rows: the records of the ranking value at each
    attacker's last step, and the failed cells among them. scores: index defense × task × seed, complete, a column for
    each attacker (`RELEASED` where none attacks); NaN is missing. earlier: the same at the last step measured within
    half the budget, NaN where there is none. forfeits: which cells count as the worst, see `forfeited`. exact: the
    defenses in which, attacks included, nothing is random.
    """

    at: Mapping[str, Any]
    grid: Grid
    ranking: Ranking
    quantity: Quantity
    coordinates: Mapping[str, str | None]
    rows: pd.DataFrame
    scores: pd.DataFrame
    earlier: pd.DataFrame
    forfeits: pd.Series
    exact: frozenset[str]

    @property
    def log(self) -> bool:
        """Whether scores are logarithms."""
        return self.quantity.scale == "log"

    @property
    def attacked(self) -> bool:
        """Whether the grid has attackers."""
        return list(self.scores) != [RELEASED]

    @property
    def defenses(self) -> list[str]:
        """The defenses in the suite's order."""
        return list(self.grid.defenses)

    @cached_property
    def undefended(self) -> list[str]:
        """The rows that stand for no defense."""
        return self.grid.undefended

    @cached_property
    def controls(self) -> list[str]:
        """The other control rows."""
        return [label for label in self.defenses if self.grid.control(label) == "control"]

    def scored(self, by_cell: pd.Series) -> Scores:
        """Scores of this grid's rows. by_cell: by defense × task × seed."""
        return Scores(
            at=self.at,
            rows=self.defenses,
            members=self.grid.members,
            by_cell=by_cell,
            exact=self.exact,
            scale=self.scale,
            resolution=self.ranking.resolution,
            unit=self.quantity.unit,
        )

    @property
    def scale(self) -> Scale:
        """How values became scores."""
        return Scale(self.ranking.better, self.log)

    def score(self, value: Any) -> Any:
        """The score of a value (a number or an array)."""
        return self.scale.score(value)

    def value(self, score: Any) -> Any:
        """The value of a score (a number or an array)."""
        return self.scale.value(score)

    @cached_property
    def weak(self) -> list[str]:
        """The attackers that are not shown to break the undefended model, on the mean over tasks and seeds."""
        if self.ranking.broken is None or not self.undefended:
            return []
        means = self.scores.loc[self.undefended].mean()
        threshold = self.score(self.ranking.broken) + 1e-9  # a mean's rounding makes no attacker weak
        return [str(attacker) for attacker, score in means.items() if not score <= threshold]

    @cached_property
    def worst(self) -> pd.Series:
        """The score that the strongest attacker of each cell leaves, by defense × task × seed.

        A weak attacker counts where it is the strongest. The score is NaN where an attacker that breaks the undefended
        model has no value, since a defense must gain nothing by an attack that failed; if no attacker breaks the
        undefended model it is NaN throughout, since then no defense was tested.
        """
        strong = self.scores.drop(columns=self.weak)
        complete = strong.notna().all(axis=1) & (len(strong.columns) > 0)
        return self.scores.min(axis=1).where(complete)

    @cached_property
    def mean(self) -> pd.Series:
        """The mean score over the attackers that break the undefended model, NaN where one of them has no value."""
        return self.scores.drop(columns=self.weak).mean(axis=1, skipna=False)

    @cached_property
    def by_task(self) -> pd.DataFrame:
        """The worst case of each task, mean over seeds, as values: a row for each task, a column for each defense."""
        means = self.worst.groupby(["task", "defense"], sort=False).mean().unstack()
        values: pd.DataFrame = self.value(means.reindex(columns=self.defenses))
        return values

    def summary(self, scores: pd.Series) -> pd.DataFrame:
        """Means with intervals (`value` and `BOUNDS`) of scores by cell, a row for each defense, as values."""
        return self.scored(scores).summary()


def quantity_of(grid: Grid, metric: str) -> Quantity:
    """What is known of a metric's number; of one that the grid does not describe, its name."""
    known = (quantity for quantity in grid.quantities if quantity.name == metric)
    return next(known, Quantity(name=metric, title=metric, description=""))


def named(grid: Grid, coordinates: Mapping[str, Any]) -> str:
    """A number as text: its metric's title with its other coordinates, `excess loss (harmful, train)`."""
    others = [str(part) for name, part in coordinates.items() if name != "metric" and not pd.isna(part)]
    title = quantity_of(grid, str(coordinates["metric"])).title
    return f"{title} ({', '.join(others)})" if others else title


def selected(frame: pd.DataFrame, selector: Mapping[Any, str | None]) -> pd.Series:
    """Which records are of whole tasks and have the coordinates in `selector` (see `harness.ranking.Selector`)."""
    chosen = frame["concept"].isna()
    for column, wanted in selector.items():
        chosen &= frame[column].isna() if wanted is None else (frame[column] == wanted).fillna(False)
    return chosen.astype(bool)


def read(records: Records) -> dict[str, Cells]:
    """The ranking values of each grid that has any, by the grid's name."""
    cells = {grid.name: _cells(records, grid, grid.ranking) for grid in records.suite.grids if grid.ranking}
    return {name: ranked for name, ranked in cells.items() if ranked is not None}


def _cells(records: Records, grid: Grid, ranking: Ranking) -> Cells | None:
    frame = records.frame[records.frame["grid"] == grid.name]
    frame = frame[frame["attacker"].isin(list(grid.attackers))] if grid.attackers else frame[frame["attacker"].isna()]
    measured = frame[(frame["status"] == "ok") & selected(frame, ranking.value)]
    failed = frame[frame["status"] != "ok"]
    if measured.empty and failed.empty:
        return None
    coordinates = _coordinates(measured, ranking.value)
    curve = measured[selected(measured, coordinates)]
    attacker = curve["attacker"].fillna(RELEASED)
    last = curve["step"].groupby(attacker).transform("max")
    final = curve[(curve["step"] == last).fillna(True) & (curve["step"].isna() == last.isna())]
    early = curve[((curve["step"] >= 1) & (curve["step"] <= last / 2)).fillna(False).astype(bool)]
    early_last = early["step"].groupby(early["attacker"].fillna(RELEASED)).transform("max")
    failed = failed[_is_of(failed, coordinates)]
    exact = final["seed"].isna().groupby(final["defense"]).all()
    rows = pd.concat([final, failed]).sort_index()
    quantity = quantity_of(grid, str(coordinates["metric"]))
    whole = _whole(grid, rows)
    suite = records.suite
    lost = forfeited(records.frame[records.frame["grid"] == grid.name], whole)
    return Cells(
        at={"suite": suite.name, "suite_version": suite.version, "grid": grid.name, "track": grid.track},
        grid=grid,
        ranking=ranking,
        quantity=quantity,
        coordinates=coordinates,
        rows=rows,
        scores=with_forfeits(_scores(final, whole, grid, ranking, quantity), lost),
        earlier=with_forfeits(_scores(early[early["step"] == early_last], whole, grid, ranking, quantity), lost),
        forfeits=lost,
        exact=frozenset(exact.index[exact]),
    )


def forfeited(frame: pd.DataFrame, whole: pd.MultiIndex) -> pd.Series:
    """Whether a defense has failed in a cell itself, and not everywhere: it must gain nothing by failing on tasks and
    seeds of its choice.

    frame: the records of a grid. whole: defense × task × seed. A defense that has failed everywhere has shown nothing,
    and its cells are missing.
    """
    own = frame[frame["attacker"].isna() & (frame["measured_by"] == COST).fillna(False)]
    own = for_every_seed(own, whole.unique("seed"))
    failed = (own["status"] != "ok").groupby([own["defense"], own["task"], own["seed"].astype(int)]).any()
    everywhere = failed.groupby("defense").transform("all")
    lost: pd.Series = (failed & ~everywhere).reindex(whole, fill_value=False).astype(bool)
    return lost


def with_forfeits(scores: pd.DataFrame, lost: pd.Series) -> pd.DataFrame:
    """The `scores` (index defense × task × seed), where the cells that are `lost` have the lowest score of any row of
    the same task and seed."""
    lowest = scores.groupby(["task", "seed"]).transform("min")
    return scores.mask(scores.isna().mul(lost, axis=0), lowest)


def _coordinates(measured: pd.DataFrame, selector: Selector) -> dict[str, str | None]:
    """Coordinates of the ranking value: the first measured one's, for a selector need not name all of them."""
    if measured.empty:
        return {name: selector.get(name) for name in QUANTITY}  # type: ignore[call-overload]
    first = measured.iloc[0]
    return {name: None if pd.isna(first[name]) else str(first[name]) for name in QUANTITY}


def _is_of(failed: pd.DataFrame, coordinates: Mapping[str, str | None]) -> pd.Series:
    """Which failed cells would have given the value at these coordinates. A failed cell names its metric plugin's label
    and, where the track measures each role by a job of its own, the role."""
    label, role = coordinates["measured_by"], coordinates["role"]
    same_label = (failed["measured_by"] == label).fillna(False) if label else ~failed["measured_by"].isin(["cost"])
    same_role = failed["role"].isna() | (failed["role"] == (role or "")).fillna(False)
    return (same_label & same_role).astype(bool)


def _whole(grid: Grid, rows: pd.DataFrame) -> pd.MultiIndex:
    """Every defense × task × seed that a grid is to measure; one seed if nothing in it is random."""
    seeds: Sequence[int] = grid.seeds if rows["seed"].notna().any() else grid.seeds[:1]
    axes: list[list[Any]] = [list(grid.defenses), list(grid.members), list(seeds)]
    return pd.MultiIndex.from_product(axes, names=["defense", "task", "seed"])


def _scores(rows: pd.DataFrame, whole: pd.MultiIndex, grid: Grid, ranking: Ranking, quantity: Quantity) -> pd.DataFrame:
    """Rows as scores on the whole grid; a value without a seed stands for every seed."""
    values = rows["value"].astype(float)
    values = values.where(np.isfinite(values))
    scaled = logarithms(values) if quantity.scale == "log" else values
    scores = scaled if ranking.better == "higher" else -scaled
    rows = rows.assign(score=scores, attacker=rows["attacker"].fillna(RELEASED))
    wide = (
        for_every_seed(rows, whole.unique("seed"))
        .groupby(["defense", "task", "seed", "attacker"])["score"]
        .first()
        .unstack()
    )
    return wide.reindex(index=whole, columns=list(grid.attackers) or [RELEASED]).astype(float)


def for_every_seed(rows: pd.DataFrame, seeds: Iterable[int]) -> pd.DataFrame:
    """Records in which a value without a seed stands once for each of the seeds. rows: records."""
    unseeded = rows[rows["seed"].isna()].drop(columns="seed").merge(pd.DataFrame({"seed": seeds}), how="cross")
    return pd.concat([rows[rows["seed"].notna()], unseeded])
