"""The table that a board shows first, its details, and the files of protection."""

import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.ensemble import Ensemble
from harness.leaderboard import boards, protection
from harness.leaderboard.headline import headline, power, spent, times
from harness.leaderboard.strength import allowed, strengths
from harness.metric import Quantity
from harness.ranking import ThreatModel
from tests.leaderboard.builders import ASR, asr, build, curves, retained

LONG = "Mine(steps=60, lr=0.001, batch_size=4, prior='captions', prior_weight=5.0)"
SWEEP = {"mine": ["mine@lr=1", "mine@lr=2"]}


def table(rows, flags=None, **fields):
    """The headline's rows by column, and the text below."""
    records = build(rows, **fields)
    grid = records.suite.grids[0]
    found = protection.read(records, grid)
    made, below = headline(found, grid, flags or {})
    return made, below


def test_a_row_for_each_defense_with_its_call_the_longest_delay_first():
    rows = curves({"none": 20, "ascent": 30, "mine": 42, "held": 300, "harmful": 80})
    rows += retained({"none": 1, "ascent": 1, "mine": 0.97, "held": 1.02, "harmful": 0.5})
    made, below = table(rows, {"harmful": "harms"}, calls={"mine": LONG, "none": "Undefended()"})
    assert [text.partition(" [")[0] for text in made["cost to break: all attackers [95 %]"]] == [
        "≥4.97×", "2.09×", "1.5×", "1× d", "3.97×"
    ]  # fmt: skip
    letters = [text.rpartition(" ")[2] for text in made["cost to break: all attackers [95 %]"]]
    assert letters[:4] == ["a", "b", "c", "d"]
    assert made["cost to break: all attackers [95 %]"][0].endswith(", ∞) a")
    assert list(made["defense"]) == [
        "held: Held()",
        "mine: Mine(steps=60, lr=0.001, batch_size=4, …)",
        "ascent (control): Ascent()",
        "none (undefended): Undefended()",
        "harmful: Harmful()",
    ]
    assert list(made["retention"]) == ["1.02", "0.97", "1", "1", "0.501"]
    assert list(made["flags"]) == ["", "", "", "", "harms"]
    assert made["ASR within 100 steps [95 %]"][0] == "0 [< 0.05]"
    assert "The last row retains less than 95 % and is not compared." in below
    assert "share a letter" in below


def test_the_board_names_the_ensemble_of_its_attackers():
    def first_sentence(attackers, **fields):
        rows = [row for name in attackers for row in curves({"none": 20, "mine": 42}, name)]
        return table(rows, ensemble=ensemble, **fields)[1].partition(". ")[0]

    ensemble = Ensemble(name="team", version=2, digest="0" * 64, attackers=["lora", "full"])
    assert first_sentence(["lora", "full"]) == "Attackers: ensemble team 2"
    assert first_sentence(["lora", "mine"]) == "Attackers: 1 of the 2 of ensemble team 2, mine"
    changed = ["attackers.full.lr=1"]
    assert first_sentence(["lora", "full"], changed=changed) == "Attackers: 1 of the 2 of ensemble team 2, full*"
    ensemble = None
    assert first_sentence(["lora"]).startswith("Cost to break")
    team = Ensemble(name="t", version=1, digest="0" * 64, attackers=["lora", "full"])
    without_undefended_row = build(curves({"mine": 42}), ensemble=team)
    assert "- Attackers: 1 of the 2 of ensemble t 1.\n" in boards.make(without_undefended_row).markdown()


def test_letters_only_where_two_rows_are_separated():
    made, below = table(curves({"none": 20, "mine": 20.1}))
    assert made["cost to break: all attackers [95 %]"][1] == "1×"
    assert "letter" not in below


def test_a_column_for_each_threat_model_and_eight_at_most():
    names = ["a", "b", "c", "d", "e"]
    rows = [row for name in names for row in curves({"none": 20, "mine": 42}, name)]
    rows += retained({"none": 1, "mine": 1})
    models = {f"model {name}": ThreatModel(attackers=[name], evidence=name == "b") for name in names}
    made, _ = table(rows, {"mine": "missing"}, threat_models=models)
    assert [name for name in made if name.startswith("cost")] == [
        f"cost to break: model {name} [95 %]" for name in "acde"
    ]
    assert made.shape[1] == 8
    assert "ASR within 100 steps, model a [95 %]" in made


def swept():
    """A sweep that falls to half the retention between its strengths, and its fine-tuned retention."""
    rows = curves({"none": 20, "mine@lr=1": 30, "mine@lr=2": 60})
    rows += retained({"none": 1, "mine@lr=1": 0.995, "mine@lr=2": 0.9})
    for row in [row for row in rows if row["attacker"] is None]:
        rows.append(row | {"attacker": "lora", "step": 100, "role": "tuned", "value": row["value"] / 2})
    return build(rows, sweeps=SWEEP, ranking=ASR.model_copy(update={"adapted": [{"role": "tuned"}]}))


def test_a_sweep_is_one_row_with_the_strengths_between_which_it_is_compared():
    records = swept()
    grid = records.suite.grids[0]
    found = protection.read(records, grid)
    flags = {"mine@lr=1": "few-seeds", "mine@lr=2": "few-seeds harms"}
    made, below = headline(found, grid, flags)
    assert list(made["defense"]) == ["mine at 0.52 lr=1 + 0.48 lr=2", "none (undefended): None()"]
    assert list(made["flags"]) == ["few-seeds", ""]
    assert list(made["retention / adapted"]) == ["0.95 / 0.95", "1 / 1"]
    assert "interpolated" in below
    points = strengths(found[0])
    assert list(points["row"]) == ["none", "mine@lr=1", "mine@lr=2"]
    assert list(points["defense"]) == ["none", "mine", "mine"]
    assert list(points["retention"]) == pytest.approx([1, 0.995, 0.9], abs=1e-3)
    assert (points["ratio"] > points["ci_low"])[1:].all()
    assert boards.make(records).csv()["strength.csv"].count("\n") == 4


def test_the_largest_strength_that_retains_enough_in_each_task():
    """`mine` ends at the first strength that fails in one task, though a stronger one does not; `other` has none."""
    sweeps = {name: [f"{name}@lr={size}" for size in (1, 2, 3)] for name in ("mine", "other")}
    shares = {"none": 0.8, "mine@lr=1": 0.79, "mine@lr=2": 0.79, "mine@lr=3": 0.8}
    rows = retained({**shares, **dict.fromkeys(sweeps["other"], 0.7)})
    for row in rows:
        if (row["defense"], row["task"]) == ("mine@lr=2", "b"):
            row["value"] = 0.7
    records = build(rows, sweeps=sweeps)
    assert allowed(records, records.suite.grids[0]) == {"mine": "mine@lr=1", "other": None}
    unranked = build(rows, sweeps=sweeps, ranking=None)  # as without attackers
    assert allowed(unranked, unranked.suite.grids[0]) == {"mine": "mine@lr=1", "other": None}
    text = boards.make(records).markdown()
    assert (
        "- largest strength that retains 95% of each kind in each task, as all weaker ones do: mine lr=1, other none"
        in text
    )


def test_costs_of_single_rows_have_no_end_where_none_is_broken():
    row = {"ratio": 2.0, "ci_low": 1.5, "ci_high": 2.5, "censored": 1.0, "control": None}
    assert times(pd.Series(row)) == "≥2× [1.5, ∞)"
    assert times(pd.Series(row | {"censored": 0.5})) == "≥2× [1.5, 2.5]"
    assert times(pd.Series(row | {"censored": 0.0})) == "2× [1.5, 2.5]"
    assert times(pd.Series(row | {"censored": 0.0, "ci_low": 2.0, "ci_high": 2.0005})) == "2× [< 0.001]"
    assert times(pd.Series(row | {"ratio": float("nan")})) == ""


def test_details_and_files():
    optimum = ASR.model_copy(update={"optimum": [{"metric": "best"}]})
    rows = curves({"none": 20, "mine": 42})
    rows += [asr(row, None, "a", 1, value, metric="best", measured_by="best", role=None, step=None)
             for row, value in (("none", 0.1), ("mine", 0.3))]  # fmt: skip
    best = Quantity(name="best", title="best loss", description="")
    made = boards.make(build(rows, ranking=optimum, quantities=[best]))
    (title, full, below), *_ = made.grids[0].section.details
    assert title == "In full"
    assert list(full["optimum: best loss"]) == ["0.3", "0.1"]
    assert list(full["defense"]) == ["mine", "none"]
    assert full["cost"][0].startswith("42") or full["cost"][0].startswith("41")
    assert "all attackers: 100 steps" in below
    files = {name: pd.read_csv(io.StringIO(text)) for name, text in made.csv().items()}
    assert set(protection.COLUMNS) <= set(files["protection.csv"])
    pairs = files["protection_comparisons.csv"]
    assert pairs[["threat_model", "defense", "other"]].to_numpy().tolist() == [["all attackers", "mine", "none"]]
    assert pairs["difference"][0] == pytest.approx(2.1, abs=0.1)


def test_power_counts_the_pairs_and_gives_the_ratio_that_the_cells_can_tell():
    """By the formula for a paired t test with known spread: (t_{1−α/2} + t_{.8}) s / √n, on logarithms."""
    rows = curves({"none": 20, "mine": 42, "other": 42.5}, tasks=("a",), seeds=range(1, 9))
    records = build(rows)
    (found,) = protection.read(records, records.suite.grids[0])
    made, below = power([found])
    assert made.to_dict("records")[0] | {"detectable ratio: median": "", "range": ""} == {
        "threat model": "all attackers", "cells of a row": "8", "pairs": "3", "separated": "2",
        "detectable ratio: median": "", "range": "",
    }  # fmt: skip
    costs = np.log(found.costs.scores.by_cell.unstack("defense").apply(found.costs.scores.scale.value))
    spread = [(costs[a] - costs[b]).std() for a, b in (("mine", "none"), ("other", "none"), ("other", "mine"))]
    quantiles = stats.t.ppf([1 - 0.05 / 3 / 2, 0.8], 7).sum()
    expected = np.exp(quantiles * np.median(spread) / np.sqrt(8))
    assert float(made["detectable ratio: median"][0].rstrip("×")) == pytest.approx(expected, rel=0.01)
    assert "probability 0.8" in below
    (alone,) = protection.read(records := build(curves({"none": 20, "mine": 42}, seeds=(1,))), records.suite.grids[0])
    assert power([alone]) is None  # one seed is no evidence


def test_what_attacks_spend_is_of_the_undefended_model():
    cost = {"measured_by": "cost", "role": None, "step": None}
    rows = [
        asr(row, "lora", "a", seed, value * seed, metric=metric) | cost
        for row, value in (("none", 10), ("mine", 1000))
        for seed in (1, 3)
        for metric in ("gradients", "seconds")
    ]
    records = build(rows)
    made, below = spent(records.frame, records.suite.grids[0])
    assert made.to_dict("records") == [{"attacker": "lora", "gradients": "20", "seconds": "20"}]
    assert "undefended" in below
    uncounted = records.frame[records.frame["metric"] == "seconds"]
    assert spent(uncounted, records.suite.grids[0]) is None
