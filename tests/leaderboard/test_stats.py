"""Intervals, corrections and ranks against SciPy, against plain arithmetic, and against their promise."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.leaderboard.stats import (
    COMMON,
    common_component,
    compact_letters,
    holm,
    intervals,
    performance_profile,
    rank_intervals,
    seed_variance,
    task_variance,
)

DRAWS = 1500


def of_rows(rows, log=False, members=None):
    """rows: (group, task, seed, value)."""
    groups, tasks, seeds, values = (pd.Series(column) for column in zip(*rows, strict=True))
    return intervals(groups, tasks, seeds, values.astype("Float64"), pd.Series([log] * len(rows)), members)


def test_equals_scipys_t_interval():
    values = [1.0, 2.0, 4.0, 4.5]
    result = of_rows([(0, "t", seed, value) for seed, value in enumerate(values)]).loc[0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert result["value"] == pytest.approx(np.mean(values))
    assert (result["ci_low"], result["ci_high"]) == pytest.approx((expected.low, expected.high))
    assert 2 * stats.t.sf(result["value"] / result["se"], result["df"]) == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue
    )


def test_ratios_are_averaged_as_logarithms():
    result = of_rows([(0, "t", 1, 10.0), (0, "t", 2, 1000.0)], log=True).loc[0]
    assert result["value"] == pytest.approx(100)
    assert result["ci_low"] * result["ci_high"] == pytest.approx(100**2)


def test_tasks_are_averaged_within_a_seed_first():
    """Two tasks far apart, the same in both seeds: the seeds agree, so there is no interval to speak of; other tasks
    would differ."""
    result = of_rows([(0, task, seed, value) for seed in (1, 2) for task, value in (("a", 1.0), ("b", 9.0))]).loc[0]
    assert result["value"] == 5
    assert np.isnan(result["ci_low"])
    half = stats.t.ppf(0.975, 1) * stats.sem([1, 9])
    assert (result["tasks_low"], result["tasks_high"]) == pytest.approx((5 - half, 5 + half))


def test_what_agrees_by_coarseness_alone_has_the_width_of_its_coarseness():
    """Three seeds at one rate, of twenty pictures: a uniform error of a twentieth has the variance 1/20²/12."""
    columns = [pd.Series(column) for column in ([0] * 3, ["t"] * 3, [1, 2, 3], [0.5] * 3, [False] * 3)]
    result = intervals(*columns, resolution=1 / 20).loc[0]
    assert result["ci_high"] - 0.5 == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt(1 / 20**2 / 12 / 3))


def test_the_variances_of_tasks_and_of_seeds_are_added():
    """Tasks 0, 3, 6 and seeds -1, 1: their means' variances are 3 and 1, with 2 and 1 degrees of freedom."""
    rows = [(0, f"t{task}", seed, task + seed) for task in (0, 3, 6) for seed in (-1, 1)]
    result = of_rows(rows).loc[0]
    df = (3 + 1) ** 2 / (3**2 / 2 + 1**2 / 1)
    assert result["tasks_high"] - 3 == pytest.approx(stats.t.ppf(0.975, df) * np.sqrt(3 + 1))
    assert 3 - result["tasks_low"] == pytest.approx(result["tasks_high"] - 3)


def test_one_seed_has_no_interval():
    result = of_rows([(0, "a", 1, 3.0), (0, "b", 1, 5.0)]).loc[0]
    assert result["value"] == 4
    assert np.isnan(result[["ci_low", "tasks_low"]].astype(float)).all()


def test_where_nothing_is_random_only_tasks_vary():
    result = of_rows([(0, "a", None, 3.0), (0, "b", None, 5.0), (0, "c", None, 7.0)]).loc[0]
    expected = stats.ttest_1samp([3, 5, 7], 0).confidence_interval(0.95)
    assert np.isnan(result["ci_low"])
    assert (result["tasks_low"], result["tasks_high"]) == pytest.approx((expected.low, expected.high))


def test_groups_do_not_mix_and_what_is_undefined_is_left_out():
    rows = [(0, "t", 1, 1.0), (1, "t", 1, 8.0), (0, "t", 2, 3.0), (1, "t", 2, float("nan")), (1, "t", 3, -2.0)]
    linear = of_rows(rows)
    assert linear.loc[0, "value"] == 2
    assert linear.loc[1, "value"] == 3
    assert of_rows(rows, log=True).loc[1, "value"] == pytest.approx(8)  # a ratio ≤ 0 is none


def test_the_jackknife_leaves_out_a_digit_with_all_its_pairs():
    """Written out for three digits: without digit 0 the pairs 1-2 and 2-1 are left."""
    pairs = {f"P{a}-H{b}": [str(a), str(b)] for a, b in itertools.permutations(range(3), 2)}
    values = dict(zip(pairs, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], strict=True))
    without = [np.mean([v for task, v in values.items() if str(digit) not in pairs[task]]) for digit in range(3)]
    expected = 2 / 3 * sum((mean - 63 / 6) ** 2 for mean in without)
    variance, clusters = task_variance(pd.DataFrame([values]), pairs)
    assert variance.item() == pytest.approx(expected)
    assert clusters.item() == 3


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_tasks_that_share_nothing_are_their_own_clusters(values):
    """Then the jackknife's is the variance of a mean; concepts that always come together count once."""
    frame = pd.DataFrame([values], columns=[f"a{i}+b{i}" for i in range(len(values))])
    variance, clusters = task_variance(frame, {name: name.split("+") for name in frame})
    assert variance.item() == pytest.approx(np.var(values, ddof=1) / len(values), abs=1e-9)
    assert clusters.item() == len(values)


def test_a_concept_in_every_task_leaves_nothing_to_compare():
    variance, _ = task_variance(pd.DataFrame([{"a+b": 1.0, "a+c": 2.0}]), {"a+b": ["a", "b"], "a+c": ["a", "c"]})
    assert np.isnan(variance.item())


def test_holm_by_hand():
    """.01 × 4, .02 × 3, .03 × 2 (no less than the one before), .5 × 1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, float("nan")]) == pytest.approx([1, 1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_no_correction_and_bonferronis(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_ranks_are_what_comparisons_leave_open():
    """0 beats 2 and 3, 1 beats 3, nothing else is known."""
    better = np.zeros((4, 4), bool)
    better[[0, 0, 1], [2, 3, 3]] = True
    low, high = rank_intervals(better)
    assert list(zip(low, high, strict=True)) == [(1, 2), (1, 3), (2, 4), (3, 4)]


def test_a_profile_counts_cells():
    scores = np.array([0.1, 0.5, 0.5, np.nan])
    assert performance_profile(scores, np.array([0.0, 0.5, 0.6])) == pytest.approx([0.75, 0.5, 0])


# ---- whether they keep their level --------------------------------------------------------------------------------


def coverage(values, kind, members=None, log=False, truth=0.0, resolution=0.0):
    """The share of draws whose interval holds the truth; values (draws, tasks, seeds)."""
    draw, task, seed = np.indices(values.shape).reshape(3, -1)
    names = np.array(list(members or [f"t{i}" for i in range(values.shape[1])]))
    given = np.exp(values) if log else values
    result = intervals(pd.Series(draw), pd.Series(names[task]), pd.Series(seed), pd.Series(given.ravel()),
                      pd.Series(np.full(values.size, log)), members, resolution=resolution)  # fmt: skip
    low, high = (np.log(result[f"{kind}_{side}"]) if log else result[f"{kind}_{side}"] for side in ("low", "high"))
    return ((low <= truth) & (high >= truth)).mean()


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("case", ["ratios", "rates", "heavy tails"])
def test_intervals_over_seeds_cover(case, seeds):
    """Tasks fixed: log-normal ratios of six tasks; rates of twenty pictures; t-distributed with five degrees."""
    rng = np.random.default_rng(seeds)
    shape = (DRAWS, 6, seeds)
    common = rng.normal(0, 1, (DRAWS, 1, seeds))  # a seed moves all tasks alike
    values = {
        "ratios": common + rng.normal(0, 1, shape),
        "rates": rng.binomial(20, 0.6, shape) / 20 - 0.6,
        "heavy tails": rng.standard_t(5, shape) + common,
    }[case]
    assert coverage(values, "ci", log=case == "ratios") >= 0.93


@pytest.mark.parametrize("p", [0.8, 0.95, 0.98, 0.99])
def test_intervals_cover_near_the_end_of_a_scale(p):
    """Ten pictures, five tasks, three seeds: seeds often agree, by coarseness alone."""
    values = np.random.default_rng(2).binomial(10, p, (DRAWS, 5, 3)) / 10
    assert coverage(values, "ci", truth=p, resolution=0.1) >= 0.93
    assert p < 0.99 or coverage(values, "ci", truth=p) < 0.85


ALL = list(itertools.permutations(range(10), 2))
PAIRS = {"all 90 pairs": ALL, "three pairs": [(0, 1), (7, 2), (4, 9)],
         "six pairs": [(0, 1), (1, 0), (3, 8), (4, 9), (7, 2), (5, 6)]}  # fmt: skip


def digit_pairs(rng, pairs, seeds, digits=(1.0, 0.7), seed=0.3, draws=DRAWS):
    """Log ratios to which the benign and the harmful digit, the pair, and the seed contribute; mean 0."""
    benign, harmful = (rng.normal(0, scale, (draws, 10)) for scale in digits)
    own, other = np.array(pairs).T
    noise = rng.normal(0, 0.5, (draws, len(pairs), 1)) + rng.normal(0, 0.5, (draws, len(pairs), seeds))
    return benign[:, own, None] + harmful[:, other, None] + noise + rng.normal(0, seed, (draws, 1, seeds))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("digits", "seed"), [((1.0, 0.7), 0.3), ((0.0, 0.0), 0.3), ((1.0, 0.7), 2.0)])
def test_intervals_over_tasks_cover_pairs_of_digits(name, seeds, digits, seed):
    """Other digits and other seeds, log-normal: where digits matter, where they do not, where seeds matter most."""
    members = {f"P{a}-H{b}": [str(a), str(b)] for a, b in PAIRS[name]}
    draws = 500 if len(members) == 90 else DRAWS
    values = digit_pairs(np.random.default_rng(seeds), PAIRS[name], seeds, digits, seed, draws)
    assert coverage(values, "tasks", members, log=True) >= 0.93


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("groups", ["ab cd ef gh ae", "abc def ghb bdg ceh"])
def test_intervals_over_tasks_cover_groups_that_share_concepts(groups, spread, seeds):
    """Five groups of two and of three, as the suites have them."""
    rng = np.random.default_rng(seeds)
    members = {group: list(group) for group in groups.split()}
    concepts = rng.normal(0, spread, (DRAWS, 8))
    of_groups = np.stack([concepts[:, ["abcdefgh".index(c) for c in of]].mean(1) for of in members.values()], 1)
    values = of_groups[:, :, None] + rng.normal(0, 0.15, (DRAWS, 5, seeds)) + rng.normal(0, 0.1, (DRAWS, 1, seeds))
    assert coverage(values, "tasks", members) >= 0.93


def test_naive_intervals_would_not_cover():
    """A percentile bootstrap over three seeds; pairs of digits taken for independent; seeds taken for tasks."""
    rng = np.random.default_rng(0)
    three = rng.normal(0, 1, (DRAWS, 3))
    result = stats.bootstrap((three,), np.mean, axis=1, method="percentile", n_resamples=999, vectorized=True,
                            rng=rng).confidence_interval  # fmt: skip
    assert ((result.low <= 0) & (result.high >= 0)).mean() < 0.85
    values = digit_pairs(rng, ALL, 5, draws=500)
    members = {f"P{a}-H{b}": [str(a), str(b)] for a, b in ALL}
    assert coverage(values, "tasks", {task: [task] for task in members}, log=True) < 0.85
    assert coverage(values, "ci", members, log=True) < 0.85


# ---- whether pairs of rows are told apart as often as they should be ---------------------------------------------


def pairs_told_apart(values, by_seed=False):
    """By draw and pair of rows, whether Holm's correction separates the pair; values (draws, rows, tasks, seeds).
    by_seed: by the paired t test over seeds alone."""
    draws, rows, tasks, seeds = values.shape
    index = pd.MultiIndex.from_product([range(tasks), range(seeds)], names=["task", "seed"])
    frames = (pd.DataFrame(draw.reshape(rows, -1).T, index) for draw in values)
    common = np.array([by_seed or common_component(frame) < COMMON for frame in frames])
    pairs = list(itertools.combinations(range(rows), 2))
    p = np.empty((draws, len(pairs)))
    for flag in (False, True):
        differences = np.stack([values[common == flag][:, a] - values[common == flag][:, b] for a, b in pairs], 1)
        draw, pair, task, seed = np.indices(differences.shape).reshape(4, -1)
        columns = pd.Series(draw * len(pairs) + pair), pd.Series(task), pd.Series(seed), pd.Series(differences.ravel())
        result = intervals(*columns, pd.Series(np.zeros(differences.size, bool)), common=flag)
        t = (result["value"] / result["se"]).abs()
        p[common == flag] = (2 * stats.t.sf(t, result["df"])).reshape(-1, len(pairs))
    return np.array([holm(row) for row in p]) < 0.05


def cells_of(rng, seeds, common, draws=250, rows=5, tasks=5):
    """Cells with a residual of 1 and, for each row, a variance `common` of what a seed does to all tasks."""
    of_seeds = rng.normal(0, 1, (draws, rows, 1, seeds)) * np.sqrt(common).reshape(-1, 1, 1)
    return of_seeds + rng.normal(0, 1, (draws, rows, tasks, seeds))


COMMON_PARTS = {"none": [0] * 5, "some": [0.2] * 5, "much": [1] * 5, "one row": [1, 0, 0, 0, 0]}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seeds"), [("none", 3), ("some", 3), ("one row", 3), ("none", 5), ("much", 5)])
def test_equal_rows_are_seldom_told_apart(name, seeds):
    """Nominally 5 % of grids; three standard errors of 250 draws are 4.1 %."""
    values = cells_of(np.random.default_rng(seeds), seeds, COMMON_PARTS[name])
    assert pairs_told_apart(values).any(1).mean() <= 0.091


def test_residuals_alone_would_tell_equal_rows_apart():
    """Where a seed moves all tasks alike, a test over cells that ignores it finds a difference in a third of grids."""
    values = cells_of(np.random.default_rng(0), 3, [0.5] * 5)
    apart = stats.ttest_1samp((values[:, 0] - values[:, 1]).reshape(len(values), -1), 0, axis=1).pvalue < 0.05
    assert apart.mean() > 0.12


def test_cells_tell_more_than_seeds():
    """Of pairs that differ by 1.5 to 6 residuals three seeds alone separate two in five, the cells three in five."""
    values = cells_of(np.random.default_rng(3), 3, [0] * 5, 150) + np.array([0, 1.5, 3, 4.5, 6]).reshape(-1, 1, 1)
    assert pairs_told_apart(values).mean() > pairs_told_apart(values, by_seed=True).mean() + 0.1


def test_the_variance_over_seeds_by_hand():
    """Two tasks, three seeds. With residuals larger than what seeds share, all six cells give the variance; where seeds
    share more, and where told so, the three means of seeds do."""
    apart = {("a", 1): 0, ("a", 2): 2, ("a", 3): 1, ("b", 1): 12, ("b", 2): 10, ("b", 3): 10}
    alike = {("a", 1): 0, ("a", 2): 2, ("a", 3): 1, ("b", 1): 10, ("b", 2): 13, ("b", 3): 11}
    for cells, common, pooled in ((apart, False, True), (apart, True, False), (alike, False, False)):
        task_means = {task: np.mean([v for (t, _), v in cells.items() if t == task]) for task in "ab"}
        squares = sum((value - task_means[task]) ** 2 for (task, _), value in cells.items())
        seed_means = [np.mean([v for (_, s), v in cells.items() if s == seed]) for seed in (1, 2, 3)]
        expected = (squares / 4 / 6, 4, 1 / 6) if pooled else (np.var(seed_means, ddof=1) / 3, 2, 1 / 3)
        index = pd.MultiIndex.from_tuples([(0, *place) for place in cells])
        variance, df, rounded = seed_variance(pd.Series(list(cells.values()), index, dtype=float), common)
        assert (variance[0], df[0], rounded[0]) == pytest.approx(expected)


def test_where_a_task_lacks_a_seed_the_means_of_seeds_decide():
    rows = [(0, "a", 1, 1.0), (0, "a", 2, 2.0), (0, "a", 3, 0.0), (0, "b", 1, 5.0), (0, "b", 2, 4.0)]
    assert of_rows(rows).loc[0, "df"] == 2


def test_what_seeds_share_is_tested_by_an_f_test():
    """Written out for two rows, whose contrast is half of their difference."""
    draw = np.random.default_rng(0).normal(size=(3, 4, 2))  # tasks, seeds, rows
    half = (draw[..., 0] - draw[..., 1]) / 2
    rest = half - half.mean(1, keepdims=True) - half.mean(0) + half.mean()
    f = 3 * half.mean(0).var(ddof=1) / ((rest**2).sum() / 6)
    index = pd.MultiIndex.from_product([range(3), range(4)], names=["task", "seed"])
    assert common_component(pd.DataFrame(draw.reshape(12, 2), index)) == pytest.approx(stats.f.sf(f, 3, 6))
    assert np.isnan(common_component(pd.DataFrame(np.ones((12, 2)), index)))
    assert np.isnan(common_component(pd.DataFrame(draw.reshape(12, 2), index)[[0]]))


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "censored"), [(3, 0.5), (3, 0.9)])
def test_equal_rows_with_censored_costs_are_seldom_told_apart(seeds, censored):
    """Log costs restricted to a budget that censors half, and nine tenths, of the cells: five equal rows."""
    values = cells_of(np.random.default_rng(seeds), seeds, [0] * 5)
    restricted = np.minimum(values, stats.norm.ppf(1 - censored))
    assert pairs_told_apart(restricted).any(1).mean() <= 0.091


@pytest.mark.parametrize("censored", [0.0, 0.3, 0.6])
def test_intervals_of_restricted_means_cover(censored):
    """The difference of two rows' restricted means; the second is stronger by a residual. The truth: a million
    cells."""
    rng = np.random.default_rng(1)
    budget = np.inf if censored == 0 else stats.norm.ppf(1 - censored, 0.5)
    draws = [rng.normal(mean, 1, 10**6) for mean in (0, 1)]
    truth = np.minimum(draws[1], budget).mean() - np.minimum(draws[0], budget).mean()
    weak, strong = rng.normal(0, 1, (DRAWS, 5, 3)), rng.normal(1, 1, (DRAWS, 5, 3))
    differences = np.minimum(strong, budget) - np.minimum(weak, budget)
    assert coverage(differences, "ci", truth=truth) >= 0.93


def test_letters_by_hand():
    """a > c, a > d, b > d: a and b share a letter, b and c do, c and d do."""
    better = np.zeros((4, 4), bool)
    better[0, [2, 3]] = better[1, 3] = True
    assert compact_letters(better, range(4)) == ["a", "ab", "bc", "c"]
    assert compact_letters(np.zeros((3, 3), bool), range(3)) == ["a", "a", "a"]
    assert compact_letters(np.zeros((0, 0), bool), []) == []


@given(seed=st.integers(0, 10**6), n=st.integers(1, 7), share=st.floats(0, 1))
def test_two_rows_share_a_letter_unless_they_are_separated(seed, n, share):
    rng = np.random.default_rng(seed)
    better = np.triu(rng.random((n, n)) < share, 1)
    letters = compact_letters(better, range(n))
    for i, j in itertools.combinations(range(n), 2):
        assert bool(set(letters[i]) & set(letters[j])) == (not better[i, j])
    assert all(letters)


def test_tasks_are_left_out_one_at_a_time_however_many(monkeypatch):
    """The jackknife's variance of a mean is s²/n; two tasks at a time are left out at once here."""
    monkeypatch.setattr("harness.leaderboard.stats.AT_ONCE", 70)
    by_task = pd.DataFrame(np.random.default_rng(1).normal(size=(3, 31)))
    variance, clusters = task_variance(by_task, {})
    assert variance.tolist() == pytest.approx((by_task.var(axis=1) / 31).tolist())
    assert clusters.tolist() == [31] * 3


@pytest.mark.parametrize("shift", [0.0, 0.1, 1 / 3, 1e3])
def test_where_a_single_task_varies_rounding_decides_nothing(shift):
    """Both mean squares are equal then, and there are as many draws as seeds: the interval is that of their means."""
    draws = np.array([0.3, 0.7, 0.1, 0.9, 0.4])
    cells = pd.Series(
        [shift + value for task in range(3) for value in (draws if task == 1 else np.zeros(5))],
        pd.MultiIndex.from_product([["a"], range(3), range(5)]),
    )
    variance, df, rounded = seed_variance(cells)
    assert variance["a"] == pytest.approx(np.var(draws / 3, ddof=1) / 5)
    assert (df["a"], rounded["a"]) == (4, pytest.approx(1 / 5))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 0.9875])
def test_where_nothing_varies_rounding_decides_nothing(value):
    cells = pd.Series(value, pd.MultiIndex.from_product([["a"], range(3), range(5)]))
    variance, df, rounded = seed_variance(cells)
    assert variance["a"] <= 1e-24
    assert (df["a"], rounded["a"]) == (12, pytest.approx(1 / 15))
