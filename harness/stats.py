"""Intervals of repeated figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats


def seed_intervals(
    groups: pd.Series, seeds: pd.Series, values: pd.Series, log: pd.Series, level: float = 0.95
) -> pd.DataFrame:
    """Means over tasks and seeds with Student's t intervals over seeds, for many figures at once.

    Four aligned columns, a row a measured value: groups (which figure it belongs to), seeds, values, and log
    (whether it is averaged as its logarithm, i.e. geometrically, as a ratio wants; values ≤ 0 then count as
    undefined). Within a seed the tasks are averaged first: they are the suite's own and fixed, so the interval
    speaks of other seeds on the same tasks. One seed, or seeds that do not differ, have no interval.

    Returns `value`, `ci_low`, `ci_high`, indexed by group.
    """
    figures = values.astype(float).mask(log & (values <= 0).fillna(False))
    figures[log] = np.log(figures[log])
    by_seed = figures.groupby([groups, seeds]).mean().groupby(level=0).agg(["mean", "std", "count"])
    is_log = log.groupby(groups).first()
    half = stats.t.ppf((1 + level) / 2, by_seed["count"] - 1) * by_seed["std"] / np.sqrt(by_seed["count"])
    half = half.where(by_seed["std"] > 1e-12 * by_seed["mean"].abs())
    linear = pd.DataFrame(
        {"value": by_seed["mean"], "ci_low": by_seed["mean"] - half, "ci_high": by_seed["mean"] + half}
    )
    linear[is_log] = np.exp(linear[is_log])
    return linear
