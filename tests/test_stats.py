"""Intervals against SciPy and against their promise."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.stats import seed_intervals


def intervals(rows, log=False):
    """rows: (group, seed, value)."""
    groups, seeds, values = (pd.Series(column) for column in zip(*rows, strict=True))
    return seed_intervals(groups, seeds, values.astype("Float64"), pd.Series([log] * len(rows)))


def test_equals_scipys_t_interval():
    values = [1.0, 2.0, 4.0, 4.5]
    found = intervals([(0, seed, value) for seed, value in enumerate(values)]).loc[0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["value"] == pytest.approx(np.mean(values))
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((expected.low, expected.high))


def test_ratios_are_averaged_as_logarithms():
    found = intervals([(0, 1, 10.0), (0, 2, 1000.0)], log=True).loc[0]
    assert found["value"] == pytest.approx(100)
    assert found["ci_low"] * found["ci_high"] == pytest.approx(100**2)


def test_tasks_are_averaged_within_a_seed_first():
    """Two tasks far apart, the same in both seeds: the seeds agree, so there is no interval to speak of."""
    rows = [(0, seed, value) for seed in (1, 2) for value in (1.0, 9.0)]
    found = intervals(rows).loc[0]
    assert found["value"] == 5
    assert np.isnan(found["ci_low"])


def test_one_seed_has_no_interval():
    found = intervals([(0, 1, 3.0), (0, 1, 5.0)]).loc[0]
    assert found["value"] == 4
    assert np.isnan(found["ci_low"])


def test_groups_do_not_mix_and_what_is_undefined_is_left_out():
    rows = [(0, 1, 1.0), (1, 1, 8.0), (0, 2, 3.0), (1, 2, float("nan")), (1, 3, -2.0)]
    linear = intervals(rows)
    assert linear.loc[0, "value"] == 2
    assert linear.loc[1, "value"] == 3
    assert intervals(rows, log=True).loc[1, "value"] == pytest.approx(8)  # a ratio ≤ 0 is none


def test_intervals_keep_their_level():
    """Five seeds, 2,000 draws: nominal 95 % cover the true mean in at least 93 %."""
    rng = np.random.default_rng(0)
    rows = [(draw, seed, value) for draw in range(2000) for seed, value in enumerate(rng.normal(3, 2, 5))]
    found = intervals(rows)
    covered = ((found["ci_low"] <= 3) & (found["ci_high"] >= 3)).mean()
    assert 0.93 <= covered <= 0.97
