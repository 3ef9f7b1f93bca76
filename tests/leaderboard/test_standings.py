"""Worst case, comparisons and ranks, by hand-made records and by a simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.leaderboard import boards, long_form
from harness.leaderboard.scores import Scores, read
from harness.leaderboard.standings import comparisons, standings
from harness.metric import Quantity
from harness.ranking import Ranking
from tests.leaderboard.builders import ASR, QUANTITIES, asr, build, cells


def table(rows, **fields):
    """Standings and comparisons of the grid `g`."""
    ranked = read(build(rows, **fields))["g"]
    compared = comparisons(ranked.scored(ranked.worst))
    return standings(ranked, compared), compared


def test_the_worst_case_is_taken_per_task_and_seed_before_any_mean():
    """Each attacker wins one task: the worst of the means (.5) is not the mean of the worst (.9)."""
    rows = cells({
        "none": {"lora": 1.0, "dreambooth": 1.0},
        "mine": {"lora": lambda task, seed: 0.9 if task == "a" else 0.1,
                 "dreambooth": lambda task, seed: 0.1 if task == "a" else 0.9},
    })  # fmt: skip
    ranked, _ = table(rows)
    assert ranked.loc["mine", "worst"] == pytest.approx(0.9)
    assert ranked.loc["mine", "mean"] == pytest.approx(0.5)
    assert ranked.loc["mine", "attacker lora"] == pytest.approx(0.5)
    assert list(ranked.index) == ["mine", "none"]


def test_the_attacker_that_does_it_is_named():
    rows = cells({
        "none": {"lora": 1.0, "dreambooth": 1.0},
        "mine": {"lora": lambda task, seed: 0.6 if seed == 1 else 0.2, "dreambooth": 0.5},
    })  # fmt: skip
    ranked, _ = table(rows)
    assert ranked.loc["mine", "by"] == "dreambooth"  # in two of three seeds
    assert ranked.loc["mine", "worst"] == pytest.approx((0.6 + 0.5 + 0.5) / 3)


def test_a_detectable_difference_is_separated_in_four_of_five_boards():
    rng, n, spread = np.random.default_rng(0), 16, 0.1
    true = stats.t.ppf([0.975, 0.8], n - 1).sum() * spread / np.sqrt(n)
    separated, detectable = [], []
    for _ in range(100):
        apart = rng.normal(true, spread, n)
        index = pd.MultiIndex.from_product([["none", "mine"], ["a"], range(n)], names=["defense", "task", "seed"])
        scores = pd.Series(np.concatenate([np.zeros(n), apart]), index)
        (pair,) = comparisons(Scores({}, ["none", "mine"], {"a": ["a"]}, scores, frozenset())).to_dict("records")
        separated.append(pair["separated"])
        detectable.append(pair["detectable"])
    assert 0.7 < np.mean(separated) < 0.9
    assert np.mean(detectable) == pytest.approx(true, rel=0.05)


def test_intervals_of_a_figure_that_is_wanted_low_are_the_right_way_round():
    rows = cells({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.1 * seed}})
    ranked, _ = table(rows)
    assert ranked.loc["mine", "ci_low"] < 0.2 < ranked.loc["mine", "ci_high"]


def test_an_interval_of_a_share_ends_where_a_share_does():
    rows = cells({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.1 if seed == 1 else 0.9}})
    for unit, ends in (("share of pictures", (0, 1)), ("", None)):
        quantities = [QUANTITIES[0].model_copy(update={"unit": unit})]
        ranked, _ = table(rows, quantities=quantities)
        low, high = ranked.loc["mine", ["ci_low", "ci_high"]]
        assert (low, high) == ends if ends else low < 0 and high > 1
        long = long_form.board(build(rows, quantities=quantities)).set_index("defense")
        low, high = long.loc["mine", ["ci_low", "ci_high"]]
        assert (low, high) == ends if ends else low < 0 and high > 1


RATIO = {
    "ranking": Ranking(value={"metric": "asr"}, better="higher", resolution=0.001),
    "quantities": [Quantity(name="asr", title="ratio", scale="log", description="a ratio")],
}


def test_logarithms_are_compared_as_ratios():
    rows = [
        asr(defense, "lora", "a", seed, value)
        for seed in (1, 2, 3)
        for defense, value in (("x", 100.0 * 2**seed), ("y", 10.0 * 2**seed))
    ]
    (row,) = table(rows, **RATIO)[1].to_dict("records")
    assert (row["defense"], row["other"]) == ("x", "y")
    assert row["difference"] == pytest.approx(10)
    assert row["separated"]


def test_pairs_are_compared_on_their_own_cells():
    """Seeds differ far more than defenses do; within every seed one is better by about .1."""
    noise = {1: 0.002, 2: -0.002, 3: 0.0, 4: 0.001, 5: -0.001}
    rows = cells({
        "none": {"lora": lambda task, seed: 0.15 * seed + 0.1 + noise[seed]},
        "mine": {"lora": lambda task, seed: 0.15 * seed},
    }, seeds=(1, 2, 3, 4, 5))  # fmt: skip
    fine = ASR.model_copy(update={"broken": None, "resolution": 0.001})
    ranked, compared = table(rows, ranking=fine)
    (row,) = compared.to_dict("records")
    assert row["difference"] == pytest.approx(-0.1)
    assert row["separated"]
    assert row["superiority"] == 1
    assert list(zip(ranked["rank_low"], ranked["rank_high"], strict=True)) == [(1, 1), (2, 2)]
    assert ranked.loc["mine", "ci_high"] > ranked.loc["none", "ci_low"]  # unpaired they overlap


def test_what_no_interval_separates_shares_ranks():
    rng = np.random.default_rng(0)
    draws = {(d, t, s): rng.uniform(0.3, 0.5) for d in "xyz" for t in "ab" for s in (1, 2, 3)}
    rows = cells({d: {"lora": lambda task, seed, d=d: draws[d, task, seed]} for d in "xyz"} | {"none": {"lora": 1.0}})
    ranked, _ = table(rows)
    ranks = dict(zip(ranked.index, zip(ranked["rank_low"], ranked["rank_high"], strict=True), strict=True))
    assert ranks["x"] == ranks["y"] == ranks["z"]
    assert ranks["x"][0] == 1
    assert ranks["x"][1] >= 3


def test_where_no_rows_are_separated_the_table_says_so_behind_the_values():
    values = {"none": {"lora": 0.9}, "mine": {"lora": lambda task, seed: 0.3 * seed}}
    (alike, _), *_ = boards.make(build(cells(values))).grids[0].section.tables
    assert list(alike)[:3] == ["defense", "worst ASR [95 %] (other tasks)", "rank"]
    assert list(alike["rank"]) == ["not separated"] * 2
    values["mine"] = {"lora": lambda task, seed: 0.1 + 0.01 * seed}
    (apart, _), *_ = boards.make(build(cells(values))).grids[0].section.tables
    assert list(apart["rank"]) == ["1", "2"]


def test_one_seed_orders_nothing():
    ranked, _ = table(cells({"none": {"lora": 1.0}, "mine": {"lora": 0.0}}, seeds=(1,)))
    assert ranked[["rank_low", "rank_high"]].isna().all(axis=None)


@pytest.mark.parametrize(("other", "ranks"), [(0.5, {(1, 1), (2, 2)}), (0.98, {(1, 2)})])
def test_where_nothing_is_random_the_difference_is_exact_to_what_is_measured(other, ranks):
    ranked, _ = table(cells({"none": {"lora": 1.0}, "mine": {"lora": other}}, seeds=(None,)))
    assert set(zip(ranked["rank_low"], ranked["rank_high"], strict=True)) == ranks
    assert ranked["ci_low"].isna().all()


def test_an_unseeded_defense_is_compared_with_every_seed():
    rows = cells({"mine": {"lora": lambda task, seed: 0.2 + 0.01 * seed}})
    rows += cells({"none": {"lora": 1.0}}, seeds=(None,))
    ranked, compared = table(rows)
    assert compared["n_cells"].item() == 6
    assert ranked.loc["none", "ci_low"] is pd.NA or np.isnan(ranked.loc["none", "ci_low"])
    assert ranked["missing"].tolist() == [0, 0]


def test_missing_cells_are_counted_whether_failed_undefined_or_not_there():
    rows = cells({"none": {"lora": 1.0, "dreambooth": 1.0}, "mine": {"lora": 0.5, "dreambooth": 0.1}})
    at = {(row["defense"], row["attacker"], row["task"], row["seed"]): row for row in rows}
    for defense in ("none", "mine"):
        at[defense, "lora", "a", 1] |= {"status": "failed", "value": None, "metric": None, "note": "gone"}
    at["mine", "lora", "a", 2]["value"] = None
    at["mine", "lora", "a", 3]["value"] = float("inf")
    rows.remove(at["mine", "lora", "b", 1])
    ranked, _ = table(rows)
    assert ranked.loc["mine", "missing"] == 4
    assert ranked.loc["mine", "n_cells"] == 12
    made = boards.make(build(rows))
    assert made.standings.set_index("defense").loc["mine", "flags"].split().count("missing") == 1
    assert "lora: 4 of 6 cells" in made.markdown()


def test_the_better_one_is_so_on_the_cells_that_both_have():
    """Of all its own cells the first has the better mean, for the hard task is missing."""
    rows = cells({
        "none": {"lora": 1.0},
        "first": {"lora": lambda task, seed: 0.3 + seed / 1000 if task == "a" else None},
        "second": {"lora": lambda task, seed: 0.1 if task == "a" else 0.9},
    }, seeds=(1, 2, 3, 4, 5))  # fmt: skip
    ranked, compared = table(rows)
    row = compared.set_index(["defense", "other"]).loc["second", "first"]
    assert (row["n_cells"], row["superiority"], row["separated"]) == (5, 1, True)
    assert row["difference"] == pytest.approx(-0.203)
    assert ranked.loc["second", "rank_low"] == 1
    assert ranked.loc["first", "rank_low"] == 2


def test_a_defense_gains_nothing_by_an_attack_that_failed():
    """Where the strong attacker is missing there is no worst case, and no mean: the other one is no stand-in."""
    rows = cells({
        "none": {"lora": 1.0, "dreambooth": 1.0, "weak": 0.2},
        "lost": {"lora": None, "dreambooth": 0.3, "weak": 0.2},
        "part": {"lora": lambda task, seed: None if task == "a" else 0.6, "dreambooth": 0.3, "weak": None},
    })  # fmt: skip
    ranked, compared = table(rows)
    assert ranked.loc["lost", ["worst", "mean"]].isna().all()
    assert ranked.loc["lost", ["rank_low", "rank_high"]].isna().all()
    assert ranked.loc["part", ["worst", "mean"]].tolist() == pytest.approx([0.6, 0.45])
    assert ranked.loc["part", "missing"] == 3 + 6
    assert compared.set_index(["defense", "other"])["n_cells"].sum() == 3  # of part and none


def test_seeds_that_agree_are_not_exact():
    """They were measured to .05, so what they say is known to a good part of that."""
    ranked, _ = table(cells({"none": {"lora": 1.0}, "mine": {"lora": 0.5}}))
    assert 0.4 < ranked.loc["mine", "ci_low"] < 0.5 < ranked.loc["mine", "ci_high"] < 0.6


def test_a_weak_attacker_earns_nothing():
    """It is in no mean; it still counts where it is the strongest; alone it makes neither worst case nor rank."""
    values = {"none": {"lora": 1.0, "weak": 0.3}, "mine": {"lora": 0.4, "weak": 0.6}}
    ranked, _ = table(cells(values))
    assert ranked.loc["mine", "mean"] == pytest.approx(0.4)
    assert ranked.loc["mine", "worst"] == pytest.approx(0.6)
    weak = cells({defense: {"weak": attackers["weak"]} for defense, attackers in values.items()})
    alone, compared = table(weak)
    assert alone[["worst", "rank_low", "mean"]].isna().all(axis=None)
    assert not compared["separated"].any()
    assert "weak (weak)" in boards.make(build(weak)).markdown()


def test_rows_are_ordered_by_the_worst_case_as_far_as_a_mean_tells():
    """One cell moves by .05, a mean of six by a sixth of it: .88 is ahead of .9, whatever the other attacker leaves."""
    ranked, _ = table(cells({
        "none": {"lora": 1.0, "dreambooth": 0.9},
        "ahead": {"lora": lambda task, seed: 0.85 if seed == 1 else 0.9, "dreambooth": 0.8},
        "behind": {"lora": 0.9, "dreambooth": 0.0},
    }))  # fmt: skip
    assert list(ranked["defense"]) == ["ahead", "behind", "none"]


def test_one_task_on_which_nothing_is_random_is_no_evidence():
    """However far apart: there is neither another seed nor another task to go by."""
    ranked, compared = table(cells({"none": {"lora": 1.0}, "mine": {"lora": 0.0}}, tasks="a", seeds=(None,)))
    assert compared[["p", "separated"]].values.tolist() == [[pytest.approx(np.nan, nan_ok=True), False]]
    assert ranked[["rank_low", "rank_high"]].isna().all(axis=None)


def test_where_nothing_is_random_tasks_are_what_varies():
    """Differences of .2, .4 and .6, measured to .05: a t test over three tasks, with the variance of rounding."""
    values = {"a": 0.8, "b": 0.6, "c": 0.4}
    rows = cells({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: values[task]}}, "abc", seeds=(None,))
    (row,) = table(rows)[1].to_dict("records")
    t = 0.4 / np.sqrt(0.2**2 / 3 + 0.05**2 / 12 / 3)
    assert row["p"] == pytest.approx(2 * stats.t.sf(t, 2))
    assert not row["separated"]


def test_an_interval_within_the_resolution_is_not_shown_as_known():
    rows = cells({"none": {"lora": 1.0}, "mine": {"lora": 0.5}}, tasks=[f"t{i}" for i in range(8)])
    assert "0.5 [&lt; 0.05]" in boards.make(build(rows)).markdown()
