"""The figures that judge a grid's defenses, cell by cell: what each attacker leaves of each defense, task and seed.

They are made of the records that say of themselves that they judge (see `protection`). A *score* is such a figure
turned so that a defender wants it high, and taken as its logarithm where its scale is log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from harness.leaderboard.stats import intervals, limits
from harness.ranking import members

GRID = ["suite", "suite_version", "grid", "track"]
FIGURE = ["metric", "role", "policy", "split"]


@dataclass(frozen=True)
class Cells:
    """The judging figures of one grid.

    at: the grid's place, by `GRID`. figure: which figure, by `FIGURE`, with `unit` and `scale`. better: higher or
    lower.
    scores: index defense × task × seed, a column an attacker ("" where nothing attacks), complete: NaN is missing.
    earlier: the same at the last measured step within half the budget; columns without such a step are NaN.
    exact: the defenses in which, attacks included, nothing is random. members: by task, what it is made of.
    undefended: the defenses that are none. controls: those that are yardsticks.
    """

    at: dict[str, Any]
    figure: dict[str, Any]
    better: str
    broken: float | None
    resolution: float
    scores: pd.DataFrame
    earlier: pd.DataFrame
    exact: frozenset[str]
    members: dict[str, list[str]]
    undefended: Sequence[str]
    controls: Sequence[str]

    @property
    def log(self) -> bool:
        """Whether scores are logarithms."""
        return bool(self.figure["scale"] == "log")

    @property
    def defenses(self) -> list[str]:
        """In the suite's order."""
        return [str(name) for name in self.scores.index.unique("defense")]

    def score(self, value: Any) -> Any:
        """The score of a figure."""
        turned = np.log(value) if self.log else value
        return turned if self.better == "higher" else -turned

    def value(self, score: Any) -> Any:
        """The figure of a score."""
        turned = score if self.better == "higher" else -score
        return np.exp(turned) if self.log else turned

    @cached_property
    def weak(self) -> list[str]:
        """The attackers that are not shown to break the undefended model, on the mean over tasks and seeds."""
        if self.broken is None or not len(self.undefended):
            return []
        means = self.scores.loc[list(self.undefended)].mean()
        enough = self.score(self.broken) + 1e-9  # a mean's rounding is no weakness
        return [str(name) for name, left in means.items() if not left <= enough]

    @cached_property
    def worst(self) -> pd.Series:
        """What the strongest attacker of each task and seed leaves, over all attackers: a weak one takes nothing from
        it. NaN where an attacker that breaks the undefended model has no figure, for a defense is not to gain by an
        attack that failed; so throughout where none breaks it: then no defense is tried."""
        strong = self.scores.drop(columns=self.weak)
        return self.scores.min(axis=1).where(strong.notna().all(axis=1) & (len(strong.columns) > 0))

    @cached_property
    def mean(self) -> pd.Series:
        """What the attackers that break the undefended model leave on average, where none of them is missing."""
        return self.scores.drop(columns=self.weak).mean(axis=1, skipna=False)

    @cached_property
    def by_task(self) -> pd.DataFrame:
        """The worst case of each task, on the mean over seeds, as figures: a row a task, a column a defense."""
        means = self.worst.groupby(["task", "defense"], sort=False).mean().unstack()
        figures: pd.DataFrame = self.value(means.reindex(columns=self.defenses))
        return figures

    def summary(self, scores: pd.Series) -> pd.DataFrame:
        """Means with intervals of scores by cell, a row a defense, as figures."""
        flat = scores.rename("score").reset_index()
        random = ~flat["defense"].isin(self.exact)
        found = intervals(flat["defense"], flat["task"], flat["seed"].where(random), flat["score"],
                          pd.Series(False, flat.index), self.members, resolution=self.resolution)  # fmt: skip
        bounds = [f"{kind}_{side}" for kind in ("ci", "tasks") for side in ("low", "high")]
        shown: pd.DataFrame = found[["value", *bounds]].apply(self.value).reindex(self.defenses)
        if self.better == "lower":  # what bounds a score from below bounds its figure from above
            shown.columns = ["value", "ci_high", "ci_low", "tasks_high", "tasks_low"]
        return shown[["value", *bounds]].clip(*limits(self.figure["unit"]))


def read(records: pd.DataFrame) -> Iterator[Cells]:
    """The judging figures of each grid that has any."""
    every = records[records["judged"].isin(["higher", "lower"])]
    for at, judged in every.groupby(GRID, sort=False):
        of_grid = records[(records[GRID] == pd.Series(at, GRID)).all(axis=1)]
        yield _cells(dict(zip(GRID, at, strict=True)), of_grid, judged)


def _cells(at: dict[str, Any], of_grid: pd.DataFrame, judged: pd.DataFrame) -> Cells:
    measured = judged[judged["status"] == "ok"]
    first = (measured if len(measured) else judged).iloc[0]
    figure = {name: None if pd.isna(first[name]) else first[name] for name in [*FIGURE, "unit", "scale"]}
    by_defense = of_grid.drop_duplicates("defense").set_index("defense")["control"].fillna("")
    seeds = sorted(judged["seed"].dropna().unique()) or [0]
    shape = [list(by_defense.index), list(judged["task"].unique()), seeds]
    attackers = list(judged["attacker"].fillna("").unique())
    curve = of_grid[of_grid["attacker"].isin(attackers) & of_grid["concept"].isna() & of_grid["step"].notna()]
    for name in FIGURE:
        curve = curve[curve[name].isna() if figure[name] is None else (curve[name] == figure[name]).fillna(False)]
    half = measured.groupby("attacker")["step"].max() / 2
    early = curve[(curve["step"] >= 1) & (curve["step"] <= curve["attacker"].map(half))]
    early = early[early["step"] == early.groupby("attacker")["step"].transform("max")]
    empty = pd.DataFrame()
    made = Cells(
        at, figure, str(first["judged"]), None if pd.isna(first["broken"]) else float(first["broken"]),
        float(first["resolution"]), empty, empty,
        frozenset(judged["seed"].isna().groupby(judged["defense"]).all().loc[lambda of: of].index),
        members(judged),
        list(by_defense.index[by_defense == "undefended"]), list(by_defense.index[by_defense == "control"]),
    )  # fmt: skip
    scores, earlier = (_scores(made, rows, shape, attackers) for rows in (judged, early))
    return replace(made, scores=scores, earlier=earlier)


def _scores(cells: Cells, rows: pd.DataFrame, shape: list[list[Any]], attackers: list[str]) -> pd.DataFrame:
    """Rows as scores on the whole grid; what draws no random numbers stands for every seed."""
    values = rows["value"].astype(float)
    values = values.where(np.isfinite(values) & ((values > 0) | (not cells.log)))
    rows = rows.assign(score=cells.score(values), attacker=rows["attacker"].fillna(""))
    fixed = rows[rows["seed"].isna()].drop(columns="seed").merge(pd.DataFrame({"seed": shape[2]}), how="cross")
    every = pd.concat([rows[rows["seed"].notna()], fixed])
    wide = every.groupby(["defense", "task", "seed", "attacker"])["score"].first().unstack()
    whole = pd.MultiIndex.from_product(shape, names=["defense", "task", "seed"])
    return wide.reindex(index=whole, columns=attackers).astype(float)
