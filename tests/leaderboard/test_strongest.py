"""Which attacker is the strongest where, on records built by hand."""

from dataclasses import replace

import pandas as pd
import pytest

from harness.leaderboard import boards
from harness.leaderboard.cost_to_break import read
from harness.leaderboard.strongest import UNBROKEN, shares, table
from harness.ranking import ThreatModel
from tests.leaderboard.builders import asr, build

NEVER = 101
COSTS = {  # of each attacker on two tasks with two seeds: the step of 100 after which the success is complete
    "none": {"lora": [10, 10, 10, 40], "full": [20, 10, 40, 10], "weak": [NEVER] * 4},
    "mine": {"lora": [30, 30, 30, 90], "full": [60, 60, 60, 20], "weak": [1] * 4},
    "held": {"lora": [NEVER] * 4, "full": [NEVER, NEVER, NEVER, 80], "weak": [NEVER] * 4},
}


def records(costs=COSTS, **fields):
    """Attacks that jump from nothing to complete success at their cost."""
    cells = [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    rows = [
        asr(defense, attacker, task, seed, float(step >= cost), step=step)
        for defense, attackers in costs.items()
        for attacker, spent in attackers.items()
        for (task, seed), cost in zip(cells, spent, strict=True)
        for step in range(1, 101)
    ]
    return build(rows, **fields)


def tabled(made):
    """The table's texts by attacker and column, and the text below."""
    grid = made.suite.grids[0]
    found, below = table(list(read(made, grid).values()), grid)
    return {row.pop("attacker"): row for row in found.to_dict("records")}, below


def test_the_least_cost_wins_and_equal_costs_share_a_cell():
    """On the undefended model LoRA is ahead twice, once as good, once behind; one attack breaks `held`."""
    texts, below = tabled(records())
    assert texts == {
        "lora": {"on none": "62%", "on mine": "75%", "on held": "0%", "everywhere": "46%", "alone": "42%"},
        "full": {"on none": "38%", "on mine": "25%", "on held": "25%", "everywhere": "29%", "alone": "25%"},
        "weak (weak)": {"on none": "", "on mine": "", "on held": "", "everywhere": "", "alone": ""},
        UNBROKEN: {"on none": "0%", "on mine": "0%", "on held": "75%", "everywhere": "25%", "alone": ""},
    }
    assert below.endswith("(weak): not shown to break the undefended model, so not counted.")


def test_the_long_form():
    (costs,) = read(records(), records().suite.grids[0]).values()
    long = shares(costs).set_index(["attacker", "defense"])
    assert long.loc[("lora", "none"), ["cells", "share", "alone"]].tolist() == [4, 2.5 / 4, 2 / 4]
    assert long.loc[("full", "held"), ["cells", "share", "alone"]].tolist() == [4, 1 / 4, 1 / 4]
    assert set(long["threat_model"]) == {"all attackers"}
    assert ("weak", "mine") not in long.index


def test_attackers_of_two_threat_models_are_not_compared():
    models = {name: ThreatModel(attackers=[name]) for name in ("lora", "full")}
    texts, _ = tabled(records(threat_models=models))
    assert [texts[name]["everywhere"] for name in models] == ["67%", "75%"]  # of what each breaks
    assert texts["lora"]["threat model"] == "lora"
    evidence = {"lora": models["lora"], "full": ThreatModel(attackers=["full"], evidence=True)}
    assert tabled(records(threat_models=evidence))[0]["full"]["alone"] == "75%"


def test_the_cells_of_a_sweep_count_together():
    texts, _ = tabled(records(sweeps={"swept": ["mine", "held"]}))
    assert list(texts["lora"]) == ["on none", "on swept", "everywhere", "alone"]
    assert texts["lora"]["on swept"] == f"{3 / 8:.0%}"


def test_a_cell_with_a_failed_attack_is_left_out():
    made = records()
    frame = made.frame
    lost = (frame["defense"] == "mine") & (frame["attacker"] == "full") & (frame["task"] == "b") & (frame["seed"] == 2)
    texts, below = tabled(replace(made, frame=frame[~lost]))
    assert texts["lora"]["on mine"] == "100%"
    assert "Cells with a failed attack" in below


def test_it_is_a_detail_of_a_board_with_several_attackers():
    board = boards.make(records())
    assert "The strongest attackers:\n\n| attacker" in board.markdown()
    assert "strongest.csv" in board.csv()
    alone = records({defense: {"lora": costs["lora"]} for defense, costs in COSTS.items()})
    assert "The strongest attackers" not in boards.make(alone).markdown()
    pd.testing.assert_series_equal(
        board.strongest.groupby("defense")["share"].sum(),
        pd.Series({"held": 0.25, "mine": 1.0, "none": 1.0}, name="share").rename_axis("defense"),
    )
    assert board.strongest["cells"].eq(4).all()
    assert board.strongest["alone"].mean() == pytest.approx((2 + 1 + 3 + 1 + 0 + 1) / 24)
