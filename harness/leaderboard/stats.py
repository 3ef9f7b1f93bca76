"""Intervals of repeated measurements, over seeds and over tasks; Holm's correction; ranks that the data bear out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
T = TypeVar("T")

LEVEL = 0.95
"""Confidence level of every interval on a board."""
BOUNDS = ("ci_low", "ci_high", "tasks_low", "tasks_high")
"""Columns of the two intervals: for other seeds on these tasks, and for other seeds and other tasks."""
COMMON = 0.25
"""p-value of `common_component` below which comparisons take a seed to move all tasks alike: a preliminary test at this
level keeps the level of the main test (Bancroft, Biometrics 20, 1964)."""

AT_ONCE = 500_000
"""Largest number of rows of a table that are computed at once, which bounds the memory of intermediate results."""


def batches(sizes: Mapping[T, int]) -> Iterator[list[T]]:
    """Split things into lists, in their order, each with at most `AT_ONCE` rows or of one thing.

    sizes: by thing, its number of rows.
    """
    batch: list[T] = []
    rows = 0
    for one, size in sizes.items():
        if batch and rows + size > AT_ONCE:
            yield batch
            batch, rows = [], 0
        batch.append(one)
        rows += size
    yield batch


def intervals(
    groups: pd.Series,
    tasks: pd.Series,
    seeds: pd.Series,
    values: pd.Series,
    log: pd.Series,
    members: Mapping[str, Sequence[str]] | None = None,
    level: float = LEVEL,
    resolution: float = 0.0,
    common: bool = False,
) -> pd.DataFrame:
    """Means over tasks and seeds with Student's t intervals, for many groups of values at once.

    Five aligned columns, a row for each measured value: groups (which mean it belongs to), tasks, seeds (empty where
    nothing is random), values, and log (whether it is averaged as its logarithm, i.e. geometrically, as a ratio
    should be; values ≤ 0 then count as undefined). Within a seed the tasks are averaged first. members: by task, its
    digits or concepts (see `task_variance`). resolution: smallest step of a value, on the scale of averaging; the
    variance of rounding to it, resolution²/12 (Sheppard), is added, so that seeds that agree only because values are
    coarse are not taken to be exact. common: whether a seed moves all tasks alike (see `seed_variance`).

    Returns, indexed by group, `value` and two intervals. `ci_low`, `ci_high`: for other seeds on the same tasks; one
    seed, or seeds that do not differ, have none. `tasks_low`, `tasks_high`: for other seeds and other tasks of the
    kind; the two variances are added, and the degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946).
    `se`, `df`, and `tasks_se`, `tasks_df`: the standard errors on the scale of averaging, and their degrees of freedom.
    """
    scaled = values.astype(float).where(~log, logarithms(values))
    cells = scaled.groupby([groups, tasks, seeds.fillna(0)]).mean().dropna()
    mean = cells.groupby(level=[0, 2]).mean().groupby(level=0).mean()
    variance, df, rounded = seed_variance(cells, common)
    se = (variance + rounded * resolution**2 / 12) ** 0.5
    table = pd.DataFrame({"value": mean, "se": se.where(se > 1e-12 * mean.abs()), "df": df})
    result = table.reindex(pd.Index(np.sort(groups.unique()), name=groups.name))

    over_tasks, clusters = task_variance(cells.groupby(level=[0, 1]).mean().unstack(), members or {})
    over_seeds = variance.mask(seeds.isna().groupby(groups).all() | (variance == 0), 0.0)
    both = over_tasks + over_seeds
    result["tasks_se"] = both.where(both > 0) ** 0.5
    freedom = both**2 / (over_tasks**2 / (clusters - 1) + (over_seeds**2 / df).fillna(0))
    result["tasks_df"] = freedom.fillna(clusters - 1)

    for kind, prefix in {"ci": "", "tasks": "tasks_"}.items():
        width = stats.t.ppf((1 + level) / 2, result[f"{prefix}df"]) * result[f"{prefix}se"]
        result[f"{kind}_low"], result[f"{kind}_high"] = mean - width, mean + width
    is_log = log.groupby(groups).first()
    on_scale = ["value", *BOUNDS]
    result.loc[is_log, on_scale] = np.exp(result.loc[is_log, on_scale])
    return result


def seed_variance(cells: pd.Series, common: bool = False) -> tuple[pd.Series, pd.Series, pd.Series]:
    """The variance of each group's mean when seeds are drawn anew and tasks stay.

    cells: values by group, task and seed, none missing. common: whether a seed moves all tasks of a group alike.

    A cell is its task's mean, plus a part that a seed has in common for all tasks, plus a residual. The draws of a cell
    depend on its task and seed, so there is no common part by design, and the residuals of all cells estimate the
    variance, with tasks × (seeds − 1) degrees of freedom. Its estimate by restricted maximum likelihood is kept in the
    model nevertheless: where the mean square of seeds is not below that of residuals, where `common` is set, and where
    a task lacks a seed, the variance comes from the means of seeds alone, with seeds − 1 degrees of freedom (Searle,
    Casella & McCulloch, Variance Components, 1992, ch. 4). Both mean squares are equal where a single task varies.

    Returns, by group, the variance, its degrees of freedom, and the share of the variance of rounding that it gets.
    """
    by_task, by_seed = (cells.groupby(level=[0, level]) for level in (1, 2))
    residuals = cells - by_task.transform("mean") - by_seed.transform("mean")
    residuals += cells.groupby(level=0).transform("mean")
    n_tasks, means = by_task.size().groupby(level=0).size(), by_seed.mean().groupby(level=0)
    n_seeds, between = means.size(), n_tasks * means.var()
    freedom = (n_tasks - 1) * (n_seeds - 1)
    within = (residuals**2).groupby(level=0).sum() / freedom.where(freedom > 0)
    complete = cells.groupby(level=0).size() == n_tasks * n_seeds
    nothing = 1e-24 * (cells**2).groupby(level=0).mean()  # rounding, where seeds do not differ
    of_cells = complete & (not common) & ((between < within * (1 - 1e-9)) | (between + within <= nothing))
    df = (n_seeds - 1).where(~of_cells, n_tasks * (n_seeds - 1))
    pooled = (freedom * within + (n_seeds - 1) * between) / df
    variance = between.where(~of_cells, pooled) / (n_tasks * n_seeds)
    return variance, df, 1 / n_seeds / n_tasks.where(of_cells, 1)


def common_component(cells: pd.DataFrame) -> float:
    """The p-value of the hypothesis that no seed moves the differences of rows on all tasks alike: an F test of the
    mean square of row × seed against that of row × task × seed.

    cells: a row for each task and seed (index levels `task`, `seed`), a column for each compared row; cells that a
    column lacks are left out. Returns NaN where nothing can be tested.
    """
    contrasts = cells.dropna().sub(cells.dropna().mean(axis=1), axis=0)
    by_task, by_seed = (contrasts.groupby(level=level) for level in ("task", "seed"))
    n_tasks, n_seeds, n_rows = by_task.ngroups, by_seed.ngroups, contrasts.shape[1]
    if len(contrasts) < n_tasks * n_seeds or min(n_tasks, n_seeds, n_rows) < 2:
        return float("nan")
    seeds = by_seed.mean() - contrasts.mean()
    residuals = contrasts - by_task.transform("mean") - by_seed.transform("mean") + contrasts.mean()
    df = (n_rows - 1) * (n_seeds - 1), (n_rows - 1) * (n_seeds - 1) * (n_tasks - 1)
    squares = n_tasks * float((seeds**2).to_numpy().sum()), float((residuals**2).to_numpy().sum())
    if squares[1] <= 1e-24 * float((cells**2).sum().sum()):
        return float("nan")
    return float(stats.f.sf(squares[0] / df[0] / (squares[1] / df[1]), *df))


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
        n = len(within)
        if n < 2 or max(map(len, within)) == len(measured.columns):  # one cluster, or one that is in every task
            continue
        values = measured.to_numpy(float)
        without = _without(values, within)
        variance[rows] = (n - 1) / n * ((without - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        clusters[rows] = n
    return variance, clusters


def _clusters(members: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
    """The places of the tasks that each member is in; members in the same tasks are one cluster."""
    tasks: dict[str, list[int]] = {}
    for place, names in enumerate(members):
        for name in dict.fromkeys(names):
            tasks.setdefault(name, []).append(place)
    return list(dict.fromkeys(map(tuple, tasks.values())))


def _without(values: Floats, clusters: Sequence[Sequence[int]]) -> Floats:
    """(rows, clusters): the means of the rows of `values` over the tasks that are not in each cluster."""
    means, size = [], max(1, AT_ONCE // values.shape[1])
    for start in range(0, len(clusters), size):
        part = clusters[start : start + size]
        rest = np.ones((len(part), values.shape[1]), bool)
        for row, tasks in zip(rest, part, strict=True):
            row[list(tasks)] = False
        means.append(values @ rest.T / rest.sum(axis=1))
    return np.hstack(means)


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


def compact_letters(better: Bools, order: Sequence[float] | npt.NDArray[np.int64]) -> list[str]:
    """Letters for each of n rows, so that two rows share a letter if and only if neither is known to be better: the
    compact letter display of a partial order (insert and absorb; Piepho, J. Computational and Graphical Statistics 13,
    2004).

    better: as for `rank_intervals`. order: of the rows; the letter a goes to the first row. Where no two rows are
    separated all have the letter a.
    """
    separated = better | better.T
    groups = [frozenset(range(len(separated)))]
    for i, j in zip(*np.nonzero(np.triu(separated)), strict=True):
        split = [group - {one} for group in groups if {i, j} <= group for one in (i, j)]
        kept = [group for group in groups if not {i, j} <= group]
        groups = [group for group in dict.fromkeys(kept + split) if not any(group < other for other in kept + split)]
    places = np.argsort(np.argsort(np.asarray(order), kind="stable"))
    groups.sort(key=lambda group: sorted(places[list(group)]))
    names = [chr(ord("a") + i % 26) + (str(i // 26) if i >= 26 else "") for i in range(len(groups))]
    return ["".join(name for name, group in zip(names, groups, strict=True) if i in group) for i in range(len(better))]


def rank_correlation(x: pd.DataFrame, y: pd.DataFrame, units: pd.Series) -> tuple[float, float, float]:
    """Spearman's correlation over rows within each task, averaged over tasks, and its 95 % interval for other units.

    x, y: a row for each defense, a column for each task; NaN is missing. units: by row, what is left out together; the
    strengths of one defense are one unit. The interval is that of the delete-one-unit jackknife (Efron & Stein, Annals
    of Statistics 9, 1981) on Fisher's scale artanh r, with n - 1 degrees of freedom for n units. Returns the
    correlation and the ends of its interval; NaN where a side has no two values, or where leaving out a unit changes
    nothing, which says nothing of its spread.
    """
    names = units.unique()
    without = np.array([_mean_spearman(x[units != name], y[units != name]) for name in names])
    correlation, n = _mean_spearman(x, y), len(names)
    z, of_rest = (np.arctanh(np.clip(r, -0.999, 0.999)) for r in (correlation, without))
    se = np.sqrt((n - 1) / n * ((of_rest - of_rest.mean()) ** 2).sum())
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * se if se > 1e-9 else np.nan
    return correlation, float(np.tanh(z - half)), float(np.tanh(z + half))


def _mean_spearman(x: pd.DataFrame, y: pd.DataFrame) -> float:
    """The mean of the columns' rank correlations; columns in which a side has no two values are left out."""
    both = x.notna() & y.notna()
    x, y = (side.where(both).rank() for side in (x, y))
    x, y = x - x.mean(), y - y.mean()
    squares = (x**2).sum() * (y**2).sum()
    return float(((x * y).sum() / squares.where(squares > 0) ** 0.5).mean())


def performance_profile(scores: Floats, thresholds: Floats) -> Floats:
    """The share of cells whose score is at least each of the thresholds; NaN reaches none (Dolan & Moré, Mathematical
    Programming 91, 2002; as tail distributions of scores Agarwal et al., NeurIPS 2021)."""
    reached = np.asarray(scores, float)[None, :] >= np.asarray(thresholds, float)[:, None]
    share: Floats = reached.mean(axis=1)
    return share
