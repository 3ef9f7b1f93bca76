"""How the defenses of a grid stand: paired comparisons, ranks, and the worst case before any mean."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from harness.leaderboard.scores import Cells
from harness.leaderboard.stats import holm, intervals, rank_intervals

LEVEL = 0.95


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
    pairs = [(a, b) if not _mean(wide[a] - wide[b]) < 0 else (b, a) for a, b in combinations(of.defenses, 2)]
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
    parts = [rows[[*of.at, "defense", "other"]], turned, rows.drop(columns=[*of.at, "defense", "other"])]
    whole: pd.DataFrame = pd.concat(parts, axis=1)
    return whole


def _mean(apart: pd.Series) -> float:
    """Of what two defenses differ by on the cells that both have, as `stats.intervals` takes it: of seeds."""
    return float(apart.groupby("seed").mean().mean())


def standings(of: Cells, compared: pd.DataFrame) -> pd.DataFrame:
    """A row a defense, the best worst case first (of equal ones the best mean): `metric`, what judges, and which way it
    is `better`; `rank_low` to `rank_high`, the ranks it may have by `compared`; `worst`, with intervals, and `mean`
    over attackers; `by`, the attacker that does the worst in most cells; each attacker's figure under `attacker NAME`;
    `n_cells` due, and how many of them are `missing`."""
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
    # Worst cases that differ by less than a mean over cells can are no order; then the mean is the better guide to the
    # eye.
    means = pd.DataFrame({"worst": of.worst.groupby("defense").mean(), "mean": of.mean.groupby("defense").mean()})
    least = of.resolution / max(1, of.worst.groupby("defense").size().max())
    means["worst"] = (means["worst"] / least).round() if least else means["worst"]
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
