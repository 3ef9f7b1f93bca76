"""How much longer a defense delays the attacks of one threat model than those of another."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.leaderboard import boards, protection
from harness.leaderboard.contrasts import contrasts
from harness.ranking import ThreatModel
from tests.leaderboard.builders import build, curves, retained

ATTACKERS = {"own": "lora", "other": "full", "like": "words"}


def made(costs, further=()):
    """Records of attacks under three threat models. costs: by attacker, a cost to break for each defense."""
    rows = [row for attacker, of_rows in costs.items() for row in curves(of_rows, attacker, tasks=["a"])]
    models = {name: ThreatModel(attackers=[one]) for name, one in ATTACKERS.items() if one in costs}
    return build([*rows, *further], threat_models=models)


def found(records):
    return protection.read(records, records.suite.grids[0])


# The order decides the draws of a row, so they differ between attackers.
COSTS = {
    "lora": {"none": 20, "mine": 60, "ascent": 40},
    "full": {"ascent": 80, "none": 40, "mine": 50},
    "words": {"mine": 60, "ascent": 40, "none": 20},
}


def test_the_ratio_is_that_of_two_ratios_and_its_test_a_paired_one():
    against = found(made(COSTS))
    table = contrasts(against).set_index(["defense", "other"])
    assert list(table.index) == [("mine", "other"), ("mine", "like"), ("ascent", "other"), ("ascent", "like")]
    logs = {one.costs.name: np.log(one.costs.least.unstack("defense")) for one in against}
    delays = {name: of_rows.sub(of_rows["none"], axis=0) for name, of_rows in logs.items()}
    for (defense, other), row in table.iterrows():
        differences = (delays["own"][defense] - delays[other][defense]).to_numpy()
        mean, se = differences.mean(), differences.std(ddof=1) / 2
        width = stats.t.ppf(0.975, 3) * se
        assert row["ratio"] == pytest.approx(np.exp(mean))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((np.exp(mean - width), np.exp(mean + width)), rel=1e-3)
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(mean / se), 3), rel=0.05)
    assert table["ratio"].round(1).tolist() == [2.4, 1.0, 1.0, 1.0]
    assert table["separated"].tolist() == [True, False, False, False]


def test_rows_without_a_cost_or_with_too_little_retention_have_none():
    kept = retained({"none": 1.0, "mine": 0.5, "ascent": 1.0}, tasks=["a"])
    assert set(contrasts(found(made(COSTS, kept)))["defense"]) == {"ascent"}
    assert contrasts(found(made({"lora": COSTS["lora"]}))).empty


@pytest.mark.parametrize(
    ("first", "other", "bound", "separated"),
    [(60, 50, "", True), (300, 50, "≥", True), (30, 300, "≤", True), (60, 300, "≤", False), (300, 300, "≈", False)],
)
def test_a_ratio_that_the_budget_bounds_is_shown_on_one_side_only(first, other, bound, separated):
    """An attack that does not succeed within 100 steps costs 100 or more. So of costs of 60 and 300 it is known that
    their ratio is at most (60 / 20) / (100 / 40), which shows no ratio above 1."""
    costs = {"lora": {"none": 20, "mine": first}, "full": {"mine": other, "none": 40}}
    (row,) = contrasts(found(made(costs))).to_dict("records")
    assert (row["bound"], row["separated"]) == (bound, separated)


def test_a_board_has_them_as_a_table_and_a_file():
    board = boards.make(made(COSTS))
    (title, table, below) = next(one for one in board.grids[0].section.details if one[0] == "Between threat models")
    assert list(table.columns) == ["defense", "threat model", "ratio [95 %]", "separated"]
    assert table.iloc[0].tolist()[:2] == ["mine", "other"]
    assert table["separated"].tolist() == ["yes", "", "", ""]
    assert "attacks of 'own'" in below, title
    assert "contrasts.csv" in board.csv()
    assert pd.DataFrame(board.contrasts)["n_cells"].tolist() == [4, 4, 4, 4]
