"""A defense that fails, or makes attacks fail, on seeds of its choice loses these cells as the worst."""

import numpy as np
import pytest

from harness.leaderboard import boards, cost_to_break, scores
from tests.leaderboard.builders import asr, build, cells, curves

SEEDS = (1, 2, 3, 4)


def costs(failed, defenses=("none", "good", "censor"), tasks=("a", "b")):
    """The run costs of the defenses. failed: which cells of a defense failed themselves, as a function."""
    return [
        asr(defense, None, task, seed, None if failed(defense, task, seed) else 1.0)
        | {"measured_by": "cost", "metric": None if failed(defense, task, seed) else "seconds", "role": None}
        | {"step": None, "status": "failed" if failed(defense, task, seed) else "ok"}
        for defense in defenses
        for task in tasks
        for seed in SEEDS
    ]


def without(rows, failed, attacker=None):
    """The rows, of which those of failed defenses are failed cells, of one attacker or of all."""
    nothing = {"value": None, "status": "failed", "metric": None, "step": None, "note": "ValueError: no convergence"}
    return [
        row | nothing
        if failed(row["defense"], row["task"], row["seed"]) and attacker in (None, row["attacker"])
        else row
        for row in rows
    ]


def build_with(failed, values=None):
    strength = values or {"none": 0.9, "good": 0.3, "censor": 0.3}
    rows = {defense: {"lora": value} for defense, value in strength.items()}
    return build(without(cells(rows, seeds=SEEDS), failed) + costs(failed))


def on_seed_two(defense, task, seed):
    return defense == "censor" and seed == 2


def test_it_counts_as_the_worst_row_of_the_cell():
    ranked = scores.read(build_with(on_seed_two))["g"]
    table = -ranked.scores["lora"].unstack("seed")  # a success rate again
    assert list(table.loc[("censor", "a")]) == [0.3, 0.9, 0.3, 0.3]
    assert list(table.loc[("good", "a")]) == [0.3] * 4
    assert ranked.worst.notna().all()


def test_the_row_is_flagged_and_behind_an_equal_one():
    board = boards.make(build_with(on_seed_two))
    standings = board.standings.set_index("defense")
    assert "forfeited" in standings.loc["censor", "flags"]
    assert "forfeited" not in str(standings.loc["good", "flags"])
    assert standings.loc["censor", "worst"] == pytest.approx(0.45)
    assert standings.loc["good", "worst"] == pytest.approx(0.3)


def test_a_defense_that_fails_everywhere_has_shown_nothing():
    ranked = scores.read(build_with(lambda defense, task, seed: defense == "censor"))["g"]
    assert ranked.scores.loc["censor"].isna().all(axis=None)
    assert not ranked.forfeits.any()


def test_an_attack_that_fails_on_a_defense_alone_counts_as_the_worst():
    """As on weights of 1e160 on a seed of the defense's choice."""
    values = {"none": {"lora": 0.9, "sgd": 0.8}, "good": {"lora": 0.3, "sgd": 0.2}}
    rows = without(cells(values, seeds=SEEDS), lambda d, t, s: (d, s) == ("good", 2), attacker="lora")
    board = boards.make(build(rows + costs(lambda *_: False, ("none", "good"))))
    scores_of_good = -board.grids[0].cells.scores.loc["good"]
    assert list(scores_of_good["lora"].loc["a"]) == [0.3, 0.9, 0.3, 0.3]
    assert list(scores_of_good["sgd"].loc["a"]) == [0.2] * 4
    flags = board.standings.set_index("defense")["flags"]
    assert "forfeited" in flags["good"]
    assert "forfeited" not in flags["none"]


@pytest.mark.parametrize("undefended", ["fails", "is no row"])
def test_an_attack_that_fails_on_the_undefended_model_too_stays_missing(undefended):
    """It is the attacker's fault, or nothing shows that it is not."""
    values = {"none": {"lora": 0.9}, "good": {"lora": 0.3}, "other": {"lora": 0.3}}
    rows = without(cells(values, seeds=SEEDS), lambda d, t, s: s == 2 and d != "other")
    if undefended == "is no row":
        rows = [row for row in rows if row["defense"] != "none"]
    ranked = scores.read(build(rows + costs(lambda *_: False, ("good", "other"))))["g"]
    assert list(ranked.scores["lora"].unstack("seed").loc[("good", "a")].isna()) == [False, True, False, False]
    assert not ranked.forfeits.any()


def test_a_value_that_is_undefined_stays_missing():
    """The attack did not fail, so a metric's limits are no fault of the defense."""
    rows = cells({"none": {"lora": 0.9}, "good": {"lora": lambda task, seed: None if seed == 2 else 0.3}}, seeds=SEEDS)
    assert not scores.read(build(rows))["g"].forfeits.any()


def test_the_cost_of_a_failed_attack_is_the_least_of_the_cell():
    """All other attackers count as before."""

    def failed(defense, task, seed):
        return defense == "good" and (task, seed) == ("a", 2)

    rows = without(curves({"none": 20, "good": 60}), failed) + curves({"none": 40, "good": 80}, "sgd")
    records = build(rows + costs(lambda *_: False, ("none", "good")))
    (found,) = cost_to_break.read(records, records.suite.grids[0]).values()
    spent = found.costs.unstack("seed")
    assert spent["lora"].loc[("good", "a"), 2] == spent["lora"].loc[("none", "a"), 2]
    assert spent["lora"].loc[("good", "a"), 1] > 50
    assert spent["sgd"].loc[("good", "a"), 2] > 70
    assert found.least.notna().all()


def test_its_cost_to_break_is_the_least_of_the_cell():
    def failed(defense, task, seed):
        return defense == "censor" and (task, seed) == ("a", 2)

    rows = without(curves({"none": 20, "good": 60, "censor": 60}), failed)
    records = build(rows + costs(failed))
    (found,) = cost_to_break.read(records, records.suite.grids[0]).values()
    least = found.least.unstack("seed")
    assert least.loc[("censor", "a"), 2] == least.loc[("none", "a"), 2]
    assert np.isfinite(found.reached.loc["censor"]).all()
    assert least.loc[("censor", "a"), 1] > 50
