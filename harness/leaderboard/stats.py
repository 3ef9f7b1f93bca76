"""Intervals of repeated measurements, over seeds and over tasks; Holm's correction; ranks that the data bear out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

LEVEL = 0.95
"""Confidence level of every interval on a board."""
BOUNDS = ("ci_low", "ci_high", "tasks_low", "tasks_high")
"""Columns of the two intervals: over seeds, and over seeds and tasks."""


def intervals(
    groups: pd.Series,
    tasks: pd.Series,
    seeds: pd.Series,
    values: pd.Series,
    log: pd.Series,
    members: Mapping[str, Sequence[str]] | None = None,
    level: float = LEVEL,
    resolution: float = 0.0,
) -> pd.DataFrame:
    """Means over tasks and seeds with Student's t intervals, for many groups of values at once.

    Five aligned columns, a row for each measured value: groups (which mean it belongs to), tasks, seeds (empty where
    nothing is random), values, and log (whether it is averaged as its logarithm, i.e. geometrically, as a ratio
    should be; values ≤ 0 then count as undefined). Within a seed the tasks are averaged first. members: by task, its
    digits or concepts (see `task_variance`). resolution: smallest step of a value, on the scale of averaging; the
    variance of rounding to it, resolution²/12 (Sheppard), is added, so that seeds that agree only because values are
    coarse are not taken to be exact.

    Returns, indexed by group, `value` and two intervals. `ci_low`, `ci_high`: for other seeds on the same tasks; one
    seed, or seeds that do not differ, have none. `tasks_low`, `tasks_high`: for other seeds and other tasks of the
    kind; the two variances are added, and the degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946).
    `se`, `df`: the standard error over seeds, on the scale of averaging, and its degrees of freedom.
    """
    scaled = values.astype(float).where(~log, logarithms(values))
    by_seed = scaled.groupby([groups, seeds.fillna(0)]).mean().groupby(level=0).agg(["mean", "std", "count"])
    mean, count, df = by_seed["mean"], by_seed["count"], by_seed["count"] - 1
    spread = np.sqrt(by_seed["std"] ** 2 + resolution**2 / 12)
    se = (spread / np.sqrt(count)).where(spread > 1e-12 * mean.abs())
    result = pd.DataFrame({"value": mean, "se": se, "df": df})
    half = {"ci": stats.t.ppf((1 + level) / 2, df) * se}

    by_task = scaled.groupby([groups, tasks]).mean().unstack()
    over_tasks, clusters = task_variance(by_task, members or {})
    over_seeds = by_seed["std"] ** 2 / count  # none where nothing is random
    over_seeds = over_seeds.mask(seeds.isna().groupby(groups).all() | (by_seed["std"] == 0), 0.0)
    both = over_tasks + over_seeds
    freedom = both**2 / (over_tasks**2 / (clusters - 1) + (over_seeds**2 / df).fillna(0))
    half["tasks"] = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(both)

    for kind, width in half.items():
        result[f"{kind}_low"], result[f"{kind}_high"] = mean - width, mean + width
    is_log = log.groupby(groups).first()
    on_scale = ["value", *BOUNDS]
    result.loc[is_log, on_scale] = np.exp(result.loc[is_log, on_scale])
    return result


def logarithms(values: pd.Series) -> pd.Series:
    """Natural logarithms; NaN of values that are not positive."""
    numbers = values.astype(float)
    return pd.Series(np.log(numbers.where(numbers > 0)), numbers.index)


def limits(unit: str | None) -> tuple[float, float]:
    """The range of a unit's values: 0 to 1 for a share, else unbounded. An interval cut there covers no less."""
    return (0.0, 1.0) if unit is not None and unit.startswith("share") else (-np.inf, np.inf)


def task_variance(by_task: pd.DataFrame, members: Mapping[str, Sequence[str]]) -> tuple[pd.Series, pd.Series]:
    """The variance of each row's mean over tasks when tasks are drawn anew, and the number of clusters it is estimated
    from; NaN where there is only one.

    by_task: (groups, tasks), NaN where a group has no value of a task. members: by task, its digits or concepts;
    a task without any is its own. Digits (concepts) are left out one at a time with all tasks they are in, those that
    always come together as one: the delete-one-cluster jackknife, (n − 1)/n Σ(θ₍ᵢ₎ − θ)² (Efron & Stein, 1981;
    for clustered data MacKinnon, Nielsen & Webb, J. Appl. Econometrics 38, 2023), used with n − 1 degrees of freedom.
    Where tasks share members it errs to the wide side.
    """
    variance = pd.Series(np.nan, by_task.index)
    clusters = pd.Series(np.nan, by_task.index)
    present = pd.Series([row.tobytes() for row in by_task.notna().to_numpy()], by_task.index)
    for rows in present.groupby(present, sort=False).groups.values():
        measured = by_task.loc[rows].dropna(axis=1)
        within = _clusters([members.get(str(task)) or [str(task)] for task in measured])
        rest = ~within
        n = len(within)
        if n < 2 or not rest.any(axis=1).all():  # one cluster, or one that is in every task
            continue
        values = measured.to_numpy(float)
        without = values @ rest.T / rest.sum(axis=1)
        variance[rows] = (n - 1) / n * ((without - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        clusters[rows] = n
    return variance, clusters


def _clusters(members: Sequence[Sequence[str]]) -> Bools:
    """(clusters, tasks): which tasks each member is in; members in the same tasks are one cluster."""
    names = sorted({name for task in members for name in task})
    return np.unique(np.array([[name in task for task in members] for name in names], bool), axis=0)


def holm(p: Sequence[float] | Floats) -> Floats:
    """p-values adjusted for their number by the step-down rule of Holm (Scand. J. Statistics 6, 1979); NaN counts as
    1."""
    raw: Floats = np.nan_to_num(np.asarray(p, float), nan=1.0)
    order = np.argsort(raw, kind="stable")
    adjusted: Floats = np.empty_like(raw)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    return adjusted


def rank_intervals(better: Bools) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The best and the worst rank, from 1, that each of n rows may have. better: (n, n), whether the row is known to be
    better than the column.

    Where the comparisons hold together at a level (as Holm's do), so do the ranks (Mogstad, Romano, Shaikh &
    Wilhelm, Review of Economic Studies 91, 2024, Section 3).
    """
    return 1 + better.sum(axis=0), len(better) - better.sum(axis=1)


def performance_profile(scores: Floats, thresholds: Floats) -> Floats:
    """The share of cells whose score is at least each of the thresholds; NaN reaches none (Dolan & Moré, Mathematical
    Programming 91, 2002; as tail distributions of scores Agarwal et al., NeurIPS 2021)."""
    reached = np.asarray(scores, float)[None, :] >= np.asarray(thresholds, float)[:, None]
    share: Floats = reached.mean(axis=1)
    return share
