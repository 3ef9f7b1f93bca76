"""Rows of which no cell was run again, as cells of others were, stand apart."""

import io
from dataclasses import replace

import pandas as pd
import pytest

from harness.leaderboard import boards
from harness.ranking import Ranking
from tests.leaderboard.builders import asr, build, curves, retained

COSTS = {"none": 20, "mine": 42, "other": 60, "forged": 95}
FORGED = ("g", "defense", "forged")


def board(costs=COSTS, untrusted=(FORGED,), **fields):
    records = build(curves(costs) + retained(dict.fromkeys(costs, 1.0)), **fields)
    tiers = {("g", "defense", row): "spot-checked" for row in costs} | dict.fromkeys(untrusted, "self-reported")
    rows = frozenset(untrusted)
    return boards.make(replace(records, tiers=tiers if rows else {}, unverified=rows, untrusted=rows))


@pytest.fixture(scope="module")
def made():
    return board()


@pytest.fixture(scope="module")
def without():
    return board({row: cost for row, cost in COSTS.items() if row != "forged"}, ())


def test_they_are_listed_last_without_letters(made, without):
    (title,) = (name for name in made.tables["g"] if name.startswith("cost to break"))
    rows = made.tables["g"].set_index("defense")[title]
    assert rows.index[0].startswith("other")
    assert rows.index[-1].startswith("forged")
    assert rows.iloc[-1][-1] == "]"
    others = without.tables["g"].set_index("defense")[title]
    assert list(rows.iloc[:-1]) == list(others)
    assert "a" in others.iloc[0]
    assert "The last row is not verified and not compared" in made.markdown()


def test_they_change_no_other_rows_ranks_and_no_sentence(made, without):
    pd.testing.assert_frame_equal(made.protection_comparisons, without.protection_comparisons)
    pd.testing.assert_frame_equal(made.comparisons, without.comparisons)
    assert made.verdict == without.verdict
    standings = made.standings.set_index("defense")
    assert standings.index[-1] == "forged"
    assert standings.loc["forged", ["rank_low", "rank_high"]].isna().all()
    ranks = ["rank_low", "rank_high"]
    pd.testing.assert_frame_equal(standings[ranks].iloc[:-1], without.standings.set_index("defense")[ranks])
    assert "unverified" in standings.loc["forged", "flags"]


def test_their_values_and_their_tiers_are_in_the_files(made, without):
    files = {name: pd.read_csv(io.StringIO(text)) for name, text in made.csv().items()}
    protection = files["protection.csv"].set_index("defense")
    assert protection.loc["forged", "ratio"] > 4
    assert protection["letters"].isna().to_dict() == {row: row == "forged" for row in COSTS}
    tiers = files["rows.csv"].set_index("row")["tier"]
    assert (tiers["mine"], tiers["forged"]) == ("spot-checked", "self-reported")
    assert "tier" not in without.rows


def test_those_that_retain_too_little_come_before_them():
    rows = curves(COSTS) + retained({"none": 1.0, "mine": 0.2, "other": 1.0, "forged": 0.1})
    text = boards.make(replace(build(rows), unverified=frozenset({FORGED}), untrusted=frozenset({FORGED}))).markdown()
    assert text.index("| other") < text.index("| mine") < text.index("| forged")
    assert "The last verified row retains less than 95 % and is not compared." in text


def test_the_undefended_row_is_compared_with_all():
    untrusted = board(untrusted=[("g", "defense", row) for row in ("none", "forged")])
    assert set(untrusted.protection_comparisons["defense"]) == {"mine", "other"}


def test_without_attackers_the_standings_have_them_last():
    at = {"attacker": None, "metric": "rir", "measured_by": "c", "role": None, "step": None}
    rows = [
        asr(defense, None, task, seed, value * seed) | at
        for defense, value in {"none": 1.0, "mine": 2.0, "forged": 9.0}.items()
        for task in "ab"
        for seed in (1, 2, 3)
    ]
    ranking = Ranking(value={"metric": "rir"}, better="higher", resolution=0.001)
    records = replace(build(rows, ranking=ranking), unverified=frozenset({FORGED}), untrusted=frozenset({FORGED}))
    assert list(boards.make(records).standings["defense"]) == ["mine", "none", "forged"]


ATTACKS = curves({"none": 20, "mine": 42, "other": 60}) + retained(dict.fromkeys(("none", "mine", "other"), 1.0))
INVENTED = ("g", "attacker", "invented")


def test_an_attack_that_nobody_could_run_again_counts_in_no_worst_case():
    """It is listed with its flag; all ranks, costs and sentences are those of the board without it."""
    attack = curves({"none": 11, "mine": 95, "other": 12}, attacker="invented")
    rows = frozenset({INVENTED})
    records = replace(build(ATTACKS + attack), tiers={INVENTED: "self-reported"}, unverified=rows, untrusted=rows)
    made, without = boards.make(records), boards.make(build(ATTACKS))
    for name in ("comparisons", "protection", "protection_comparisons"):
        pd.testing.assert_frame_equal(getattr(made, name), getattr(without, name))
    shared = ["defense", "rank_low", "rank_high", "worst", "by", "mean", "attacker lora"]
    pd.testing.assert_frame_equal(made.standings[shared], without.standings[shared])
    assert made.standings["attacker invented"].notna().all()
    assert ("none", "invented", "unverified") in {raised[:3] for raised in made.grids[0].raised}


def test_where_nobody_could_run_any_attack_again_all_of_them_count():
    rows = frozenset({("g", "attacker", "lora")})
    records = replace(build(ATTACKS), unverified=rows, untrusted=rows)
    pd.testing.assert_frame_equal(boards.make(records).protection, boards.make(build(ATTACKS)).protection)
