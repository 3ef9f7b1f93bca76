"""How the defenses of a grid compare: paired comparisons, ranks, and the worst case before any mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from harness.leaderboard.scores import Cells, Scores
from harness.leaderboard.stats import (
    BOUNDS,
    COMMON,
    LEVEL,
    Bools,
    batches,
    common_component,
    compact_letters,
    holm,
    intervals,
    rank_intervals,
)

POWER = 0.8
"""Probability with which a detectable difference is separated."""


def comparisons(scores: Scores) -> pd.DataFrame:
    """Every pair of rows on the same cells (task × seed), the better one first.

    Columns: the grid's place, `defense`, `other`. `difference`: of the mean values, or their ratio where the scale is
    log, with intervals as in `stats.intervals`. `p`: of the paired t test over the cells, for these tasks (see
    `stats.seed_variance`); where nothing is random in either defense, over tasks; empty where there is one seed or one
    such task, which are no evidence. `p_holm`: corrected for the grid's number of pairs. `superiority`: the effect
    size, the share of cells in which the first is better, ties counting half (probability of superiority; Grissom &
    Kim, Effect Sizes for Research, 2005, ch. 5; paired here). `n_cells`: cells that both have. `separated`: p_holm <
    .05 and a difference above the ranking's resolution. `detectable`: the true difference, as a value or a ratio, that
    as many cells with the same spread would separate with probability `POWER` in the strictest step of Holm's rule.
    """
    wide = scores.by_cell.unstack("defense").reindex(columns=list(scores.rows))
    pairs = [_better_first(wide, a, b) for a, b in combinations(scores.rows, 2)]
    names = pd.DataFrame(
        [{**scores.at, "defense": a, "other": b} for a, b in pairs], columns=[*scores.at, "defense", "other"]
    )
    if not pairs or not wide.notna().any(axis=None):
        return names.assign(separated=False)
    exact = np.array([{a, b} <= scores.exact for a, b in pairs])
    random = wide.dropna(axis=1, how="all").drop(columns=scores.exact, errors="ignore")
    common = common_component(random) < COMMON
    sizes = dict.fromkeys(range(len(pairs)), len(wide))
    parts = [_of_pairs(scores, wide, {i: pairs[i] for i in batch}, exact, common) for batch in batches(sizes)]
    means = pd.concat(parts).reindex(names.index)
    tests = _tests(scores, means, exact)
    tests["detectable"] = np.exp(tests["detectable"]) if scores.scale.log else tests["detectable"]
    tests["superiority"] = means["superiority"]
    tests["n_cells"] = means["n_cells"].fillna(0).astype(int)
    tests["separated"] = (means["value"].abs() > scores.resolution) & (tests["p_holm"] < 1 - LEVEL)
    table: pd.DataFrame = pd.concat([names, _as_values(scores, means), tests], axis=1)
    return table


def _better_first(wide: pd.DataFrame, a: str, b: str) -> tuple[str, str]:
    """A pair of defenses, first the one with the higher mean score on the cells that both have."""
    mean = (wide[a] - wide[b]).groupby("seed").mean().mean()  # of tasks within a seed first, as in `stats.intervals`
    return (b, a) if mean < 0 else (a, b)


def _of_pairs(
    scores: Scores, wide: pd.DataFrame, pairs: Mapping[int, tuple[str, str]], exact: Bools, common: bool
) -> pd.DataFrame:
    """Mean differences of scores by pair, as `stats.intervals` returns them, with `superiority` and `n_cells`.

    wide: the scores, a column for each defense. pairs: some of the pairs, by number. exact: by pair, whether nothing is
    random. common: whether a seed moves all tasks alike.
    """
    by_pair = {i: wide[a] - wide[b] for i, (a, b) in pairs.items()}
    differences = pd.concat(by_pair, names=["pair"]).dropna().reset_index(name="score")
    unseeded = differences["pair"].map(dict(enumerate(exact))).astype(bool)
    means = intervals(
        differences["pair"],
        differences["task"],
        differences["seed"].where(~unseeded),
        differences["score"],
        pd.Series(False, differences.index),
        scores.members,
        resolution=scores.resolution,
        common=common,
    )
    means.loc[exact[means.index.to_numpy(int)], ["ci_low", "ci_high", "se"]] = np.nan
    signs = np.sign(differences["score"].where(differences["score"].abs() > scores.resolution, 0))
    by_sign = signs.groupby(differences["pair"])
    return means.assign(superiority=(by_sign.mean() + 1) / 2, n_cells=by_sign.size())


def _tests(scores: Scores, means: pd.DataFrame, exact: Bools) -> pd.DataFrame:
    """`p`, `p_holm` and, as a score, `detectable` by pair."""
    rounding = scores.resolution**2 / 12 / len(scores.members)
    over_tasks = np.sqrt(means["tasks_se"].fillna(0) ** 2 + rounding)
    se, df = means["se"].mask(exact, over_tasks), means["df"].mask(exact, means["tasks_df"])
    p = pd.Series(2 * stats.t.sf((means["value"] / se).abs(), df), means.index)
    level = (1 - LEVEL) / len(means)
    detectable = (stats.t.ppf(1 - level / 2, df) + stats.t.ppf(POWER, df)) * se
    return pd.DataFrame({"p": p, "p_holm": holm(p.to_numpy(float)), "detectable": detectable.clip(scores.resolution)})


def _as_values(scores: Scores, means: pd.DataFrame) -> pd.DataFrame:
    """Differences of scores as differences (ratios) of values, bounds in rising order."""
    values: pd.DataFrame = means[["value", *BOUNDS]].apply(scores.scale.value).rename(columns={"value": "difference"})
    for kind in ("ci", "tasks"):
        low, high = f"{kind}_low", f"{kind}_high"
        ends = values[[low, high]]
        values[low], values[high] = ends.min(axis=1, skipna=False), ends.max(axis=1, skipna=False)
    return values


def standings(cells: Cells, compared: pd.DataFrame) -> pd.DataFrame:
    """A row for each defense, the best worst case first (of equal ones the best mean), and those that are not compared
    last.

    compared: see `comparisons`. Columns: the grid's place; `metric`, the ranking value, and which way it is `better`;
    `defense`; `rank_low` to `rank_high`, the ranks that the comparisons leave open; `worst`, with intervals; `by`, the
    attacker that is strongest in most cells; `mean` over attackers; each attacker's value under `attacker NAME`;
    `n_cells` due, and how many of them are `missing`; `call`, which makes the defense.
    """
    worst = cells.summary(cells.worst)
    front = {**cells.at, "metric": cells.coordinates["metric"], "better": cells.ranking.better}
    table = pd.DataFrame(front, index=worst.index).assign(defense=worst.index)
    table[["rank_low", "rank_high"]] = ranks(cells.compared.rows, compared)[["rank_low", "rank_high"]]
    table = table.join(worst.rename(columns={"value": "worst"}))
    table["by"] = _strongest(cells)
    table["mean"] = cells.summary(cells.mean)["value"]
    for attacker in cells.grid.attackers:
        table[f"attacker {attacker}"] = cells.summary(cells.scores[attacker])["value"]
    missing = cells.scores.isna().stack(future_stack=True)
    table["n_cells"] = missing.groupby("defense").size()
    table["missing"] = missing.groupby("defense").sum()
    table["call"] = [cells.grid.defenses[defense].call for defense in table["defense"]]
    return table.loc[_order(cells)]


def ranks(rows: Sequence[str], compared: pd.DataFrame) -> pd.DataFrame:
    """`rank_low` and `rank_high`, the best and the worst rank of each of `rows` by the separated pairs, and `letters`:
    two rows that share a letter are not separated (see `stats.compact_letters`). Empty for a row of which no comparison
    has a p-value. compared: see `comparisons`."""
    places = {row: i for i, row in enumerate(rows)}
    better = np.zeros((len(places), len(places)), bool)
    separated = compared.loc[compared["separated"], ["defense", "other"]]
    for winner, loser in separated.itertuples(index=False):
        better[places[winner], places[loser]] = True
    low, high = rank_intervals(better)
    tested = compared.loc[compared["p"].notna(), ["defense", "other"]] if "p" in compared else compared.iloc[:0]
    table = pd.DataFrame({"rank_low": low, "rank_high": high}, list(rows)).astype("Int64")
    table["letters"] = pd.array(compact_letters(better, low + high), "string")
    return table.loc[table.index.isin(tested.to_numpy().ravel())].reindex(table.index)


def _order(cells: Cells) -> pd.Index:
    """Defenses by worst case, then by mean. Worst cases that differ by less than a mean over cells can resolve are
    taken as equal; the mean is then the better guide."""
    means = pd.DataFrame({score: getattr(cells, score).groupby("defense").mean() for score in ("worst", "mean")})
    resolution = cells.ranking.resolution / max(1, cells.worst.groupby("defense").size().max())
    if resolution:
        means["worst"] = (means["worst"] / resolution).round()
    means = means.reindex(cells.defenses).assign(trusted=[row not in cells.untrusted for row in cells.defenses])
    return means.sort_values(["trusted", "worst", "mean"], ascending=False, kind="stable").index


def _strongest(cells: Cells) -> pd.Series:
    """By defense, the attacker that reaches the worst case, within the resolution, in most cells; of equal ones the one
    that is ahead at half the budget."""
    strongest = pd.Series(pd.NA, cells.defenses, dtype="string")
    if not cells.attacked or not cells.worst.notna().any():
        return strongest
    reaches = cells.scores[cells.counted].le(cells.worst + cells.ranking.resolution, axis=0).groupby("defense").sum()
    halfway = cells.earlier[cells.counted].groupby("defense").mean()
    for defense in cells.defenses:
        if reaches.loc[defense].any():
            ranked = pd.DataFrame({"cells": -reaches.loc[defense], "halfway": halfway.loc[defense]})
            strongest[defense] = str(ranked.sort_values(["cells", "halfway"], kind="stable").index[0])
    return strongest
