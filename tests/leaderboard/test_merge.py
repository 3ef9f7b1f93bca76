"""What submissions of one suite go together, and what they make together."""

import pandas as pd
import pytest

from harness.errors import UsageError
from harness.leaderboard import boards
from harness.leaderboard.merge import merge
from harness.records import Records
from tests.leaderboard.builders import asr, build, cells


def rows(*defenses):
    values = {"none": {"lora": 1.0}, "random_init": {"lora": 0.9}, "mine": {"lora": lambda task, seed: 0.1 * seed}}
    measured = cells({defense: values[defense] for defense in defenses})
    costs = [
        asr(
            defense,
            "lora",
            "a",
            seed,
            2.0,
            metric="seconds",
            measured_by="cost",
            role=None,
            key=f"cost {defense}{seed}",
        )
        for defense in defenses
        for seed in (1, 2, 3)
    ]
    return measured + costs


def test_two_halves_that_share_a_row_make_the_whole():
    """What the shared row cost the second one differs; the first one's cost stands."""
    second = [row | ({"value": 3.0} if row["metric"] == "seconds" else {}) for row in rows("none", "mine")]
    merged = merge({"one.json": build(rows("none", "random_init")), "two.json": build(second)})
    whole = build(rows("none", "random_init", "mine"))
    made, expected = boards.make(merged), boards.make(whole)
    pd.testing.assert_frame_equal(made.standings, expected.standings)
    assert list(made.grids[0].grid.defenses) == ["none", "random_init", "mine"]
    costs = merged.frame[merged.frame["metric"] == "seconds"]
    assert costs.groupby("defense")["value"].first().to_dict() == {"none": 2.0, "random_init": 2.0, "mine": 3.0}


def test_grids_stand_in_the_suites_order():
    parts = {name: build([row | {"grid": name} for row in rows("none")]) for name in ("three", "mine", "two")}
    merged = merge(parts, ["two", "three"])
    assert [grid.name for grid in merged.suite.grids] == ["two", "three", "mine"]
    assert list(merged.frame["grid"].unique()) == ["two", "three", "mine"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite_version": 4}, r"two\.json is of s version 4, one\.json of s version 1: a board is of one suite"),
        ({"suite": "other"}, r"two\.json is of other version 1"),
        ({"value": 0.5}, r"two\.json and one\.json differ in the cell g · a · none · lora · 1 · asr: leave one"),
        ({"key": "other settings"}, r"differ in the cell g · a · none · lora · 1 · asr"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    other = build([row | change for row in rows("none")])
    with pytest.raises(UsageError, match=message):
        merge({"one.json": build(rows("none")), "two.json": other})


def test_another_protocol_is_refused():
    other = build(rows("mine"), protocol={"steps": 5})
    with pytest.raises(UsageError, match=r"two\.json has another protocol of grid 'g'"):
        merge({"one.json": build(rows("none")), "two.json": other})


def test_each_parts_tier_and_changes_are_kept():
    one = build(rows("none"), tier="reproduced", changed=["1 of 3 defenses"])
    two = build(rows("mine"), tier="self-reported", changed=["1 of 3 defenses", "defenses.mine.lr=0.1"], older=True)
    merged = merge({"one.json": one, "two.json": two})
    assert merged.tier == "one.json: reproduced; two.json: self-reported"
    assert merged.older
    assert merged.suite.grids[0].changed == [
        "one.json: 1 of 3 defenses", "two.json: 1 of 3 defenses", "defenses.mine.lr=0.1",
    ]  # fmt: skip
    assert merge({"x": Records(one.suite, one.frame, "reproduced")}).tier == "reproduced"
