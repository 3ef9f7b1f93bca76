"""How the defenses of a grid stand: the worst case of each task and seed first, then means, comparisons and ranks.

All of it is made of the records that say of themselves that they judge (see `protection`). Inside this module a
*score* is such a figure turned so that a defender wants it high, and taken as its logarithm where its scale is log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from harness.stats import holm, intervals, rank_intervals

GRID = ["suite", "suite_version", "grid", "track"]
FIGURE = ["metric", "role", "policy", "split"]
LEVEL = 0.95


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
        it. NaN throughout where no attacker breaks the undefended model: then no defense is tried."""
        lowest = self.scores.min(axis=1)
        return lowest if len(self.weak) < len(self.scores.columns) else lowest * np.nan

    @cached_property
    def mean(self) -> pd.Series:
        """What the attackers that break the undefended model leave on average."""
        return self.scores.drop(columns=self.weak).mean(axis=1)

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
                          pd.Series(False, flat.index), self.members, LEVEL)  # fmt: skip
        bounds = [f"{kind}_{side}" for kind in ("ci", "tasks") for side in ("low", "high")]
        shown = found[["value", *bounds]].apply(self.value).reindex(self.defenses)
        if self.better == "lower":  # what bounds a score from below bounds its figure from above
            shown.columns = ["value", "ci_high", "ci_low", "tasks_high", "tasks_low"]
        ordered: pd.DataFrame = shown[["value", *bounds]]
        return ordered


def cells(records: pd.DataFrame) -> Iterator[Cells]:
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
        {str(task): str(of).split("+") for task, of in judged.groupby("task")["members"].first().dropna().items()},
        list(by_defense.index[by_defense == "undefended"]), list(by_defense.index[by_defense == "control"]),
    )  # fmt: skip
    scores, earlier = (_scores(made, rows, shape, attackers) for rows in (judged, early))
    return Cells(**{**vars(made), "scores": scores, "earlier": earlier})


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


def comparisons(of: Cells) -> pd.DataFrame:
    """Every pair of a grid's defenses on the same cells (task × seed, each with its strongest attacker), the better one
    first.

    `difference`: of the figures' means, or their ratio where the scale is log, in the sense of the figure; with
    intervals as in `stats.intervals`. `p`: of the paired t test over seeds; `p_holm`: corrected for the grid's number
    of pairs. `superiority`: the effect size, the share of cells in which the first is better, ties counting half
    (probability of superiority; Grissom & Kim, Effect Sizes for Research, 2005, ch. 5; paired here). `n_cells`: those
    that both have. `separated`: p_holm < .05 and a difference above the figure's resolution; where nothing is random
    in either, the latter alone.
    """
    wide = of.worst.unstack("defense").reindex(columns=of.defenses)
    level = wide.mean()
    pairs = [(a, b) if not level[b] > level[a] else (b, a) for a, b in combinations(of.defenses, 2)]
    rows = pd.DataFrame([{**of.at, "defense": a, "other": b} for a, b in pairs],
                        columns=[*of.at, "defense", "other"])  # fmt: skip
    apart = {i: wide[a] - wide[b] for i, (a, b) in enumerate(pairs)}
    if not pairs or not wide.notna().any(axis=None):
        return rows.assign(separated=False)
    flat = pd.concat(apart, names=["pair"]).dropna().reset_index(name="score")
    random = [not {a, b} <= of.exact for a, b in pairs]
    found = intervals(flat["pair"], flat["task"], flat["seed"].where(flat["pair"].map(dict(enumerate(random)))),
                      flat["score"], pd.Series(False, flat.index), of.members, LEVEL, of.resolution)  # fmt: skip
    found = found.reindex(rows.index)
    exact = ~np.array(random)
    found.loc[exact, ["ci_low", "ci_high", "se"]] = np.nan
    t = (found["value"] / found["se"]).abs()
    rows["p"] = 2 * stats.t.sf(t, found["df"])
    enough = found["value"].abs() > of.resolution
    rows.loc[exact, "p"] = np.where(enough, 0.0, 1.0)[exact]
    rows["p_holm"] = holm(rows["p"].to_numpy(float))
    signs = np.sign(flat["score"].where(flat["score"].abs() > of.resolution, 0))
    rows["superiority"] = (signs.groupby(flat["pair"]).mean() + 1) / 2
    rows["n_cells"] = flat.groupby("pair").size().reindex(rows.index, fill_value=0)
    rows["separated"] = enough & (rows["p_holm"] < 1 - LEVEL)
    turned = found[["value", "ci_low", "ci_high", "tasks_low", "tasks_high"]].apply(of.value)
    turned.columns = ["difference", "ci_low", "ci_high", "tasks_low", "tasks_high"]
    for kind in ("ci", "tasks"):
        ends = turned[[f"{kind}_low", f"{kind}_high"]]
        turned[f"{kind}_low"], turned[f"{kind}_high"] = ends.min(axis=1, skipna=False), ends.max(axis=1, skipna=False)
    front = [*of.at, "defense", "other"]
    whole: pd.DataFrame = pd.concat(
        [rows[front], turned, rows[["p", "p_holm", "superiority", "n_cells", "separated"]]], axis=1
    )
    return whole


def standings(of: Cells, compared: pd.DataFrame) -> pd.DataFrame:
    """A row a defense, the best worst case first (of equal ones the best mean): `metric`, what judges, and which way it
    is `better`; `rank_low` to `rank_high`, the ranks it may have by `compared`;
    `worst` and `mean` over attackers, with intervals; `by`, the attacker that does the worst in most cells; each
    attacker's figure under `attacker NAME`; `n_cells` due, and how many of them are `missing`."""
    worst = of.summary(of.worst)
    front = {**of.at, "metric": of.figure["metric"], "better": of.better}
    table = pd.DataFrame(front, index=worst.index).assign(defense=worst.index)
    order = {name: i for i, name in enumerate(of.defenses)}
    better = np.zeros((len(order), len(order)), bool)
    for a, b in compared.loc[compared["separated"], ["defense", "other"]].itertuples(index=False):
        better[order[a], order[b]] = True
    if of.worst.notna().any():
        low, high = rank_intervals(better)
        table["rank_low"], table["rank_high"] = low, high
    else:
        table["rank_low"] = table["rank_high"] = np.nan
    table = table.join(worst.rename(columns={"value": "worst"}))
    table["by"] = _strongest(of)
    table["mean"] = of.summary(of.mean)["value"]
    for attacker in filter(None, of.scores):
        table[f"attacker {attacker}"] = of.summary(of.scores[attacker])["value"]
    lacking = of.scores.isna().stack(future_stack=True)
    table["n_cells"] = lacking.groupby("defense").size()
    table["missing"] = lacking.groupby("defense").sum()
    table[["rank_low", "rank_high"]] = table[["rank_low", "rank_high"]].astype("Int64")
    # Worst cases that differ by less than is measured are no order; then the mean is the better guide to the eye.
    means = pd.DataFrame({"worst": of.worst.groupby("defense").mean(), "mean": of.mean.groupby("defense").mean()})
    means["worst"] = (means["worst"] / of.resolution).round() if of.resolution else means["worst"]
    means = means.reindex(of.defenses).sort_values(["worst", "mean"], ascending=False, kind="stable")
    return table.loc[means.index]


def _strongest(of: Cells) -> pd.Series:
    """By defense, the attacker that comes to the worst case, within the figure's resolution, in most cells; of equal
    ones that which is ahead at half the budget, for it is the quickest."""
    if not of.worst.notna().any() or list(of.scores) == [""]:
        return pd.Series(None, of.defenses, dtype="string")
    near = of.scores.le(of.worst + of.resolution, axis=0).groupby("defense").sum()
    pace = of.earlier.groupby("defense").mean()
    best = {}
    for defense in of.defenses:
        ranked = pd.DataFrame({"cells": -near.loc[defense], "pace": pace.loc[defense]})
        if near.loc[defense].any():
            best[defense] = str(ranked.sort_values(["cells", "pace"], kind="stable").index[0])
    return pd.Series(best, dtype="string").reindex(of.defenses)
