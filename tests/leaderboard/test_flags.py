"""Each flag is raised by what it is about, and by nothing else."""

import pandas as pd
import pytest

from harness import leaderboard
from harness.leaderboard.flags import FLAGS
from tests.helpers import frame, grid, rate

FIVE = (1, 2, 3, 4, 5)


def flags(rows, published=None):
    """By defense, the flags of its row in the standings; `tuning-untold` is on all of these."""
    made = leaderboard.make(frame(rows), published)
    found = made.standings.set_index("defense")["flags"].fillna("").str.split().map(set)
    return {defense: of - {"tuning-untold"} for defense, of in found.items()}


def clean(**more):
    """A defense that withstands, with a control that does not, over five seeds."""
    jitter = {seed: 0.01 * (seed % 3) for seed in FIVE}
    values = {
        "none": {"lora": 1.0},
        "ascent": {"lora": lambda task, seed: 0.9 - jitter[seed]},
        "mine": {"lora": lambda task, seed: 0.3 + jitter[seed]},
        **more,
    }
    return grid(values, seeds=FIVE)


def early(defense, attacker, value, step=30, seeds=FIVE):
    """The same figure at an earlier step, which judges nothing."""
    return [rate(defense, attacker, task, seed, value, step=step, judged=None) for task in ("a", "b") for seed in seeds]


def test_a_clean_row_has_none():
    found = flags(clean())
    assert found["mine"] == set()
    assert found["none"] == set()


def test_few_seeds():
    found = flags(grid({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.1 * seed}}, seeds=(1, 2, 3)))
    assert "few-seeds" in found["mine"]
    unseeded = flags(grid({"none": {"lora": 1.0}, "mine": {"lora": 0.1}}, seeds=(None,)))
    assert "few-seeds" not in unseeded["mine"]


def test_an_attacker_that_does_not_break_the_undefended_model():
    found = flags(clean() + grid({"none": {"weak": 0.79}, "ascent": {"weak": 0.1}, "mine": {"weak": 0.1}}, seeds=FIVE))
    assert all("weak-attack" in of for of in found.values())
    strong = flags(clean() + grid({"none": {"other": 0.8}, "ascent": {"other": 0}, "mine": {"other": 0}}, seeds=FIVE))
    assert all("weak-attack" not in of for of in strong.values())


def test_no_undefended_row():
    rows = [row for row in clean() if row["defense"] != "none"]
    assert all("no-control" in of for of in flags(rows).values())


@pytest.mark.parametrize(("at_half", "stalled"), [(0.1, False), (0.31, True), (0.6, True)])
def test_twice_the_steps_not_stronger(at_half, stalled):
    """.31 on average after all steps: from .1 it went on; from .31 and, weaker, from .6 it did not."""
    rows = clean() + early("mine", "lora", at_half) + early("none", "lora", 1.0) + early("ascent", "lora", 0.1)
    found = flags(rows)
    assert ("stalled-attack" in found["mine"]) == stalled
    assert "stalled-attack" not in found["none"]  # it stands still because it has succeeded


def test_steps_within_the_second_half_are_not_compared():
    assert "stalled-attack" not in flags(clean() + early("mine", "lora", 0.31, step=31))["mine"]


def test_no_better_than_the_undefended_model_or_than_a_control():
    wide = {1: 0.3, 2: 0.95, 3: 0.4, 4: 1.0, 5: 0.5}
    found = flags(clean(mine={"lora": lambda task, seed: wide[seed]}))
    assert {"no-better", "control-as-good"} <= found["mine"]
    beside = flags(clean(ascent={"lora": lambda task, seed: 0.31}, noise={"lora": lambda task, seed: 0.31}))
    assert beside["mine"] == {"control-as-good"}
    assert beside["ascent"] == beside["noise"] == set()  # a control is not held against controls


@pytest.mark.parametrize(("kept", "harms"), [(0.96, False), (0.9, True)])
def test_low_retention_is_flagged(kept, harms):
    before = {"attacker": None, "role": "kept", "step": None, "judged": "kept", "broken": None, "resolution": None}
    rows = clean() + [
        rate(defense, None, "a", 1, value) | before | {"split": split}
        for defense, value in (("none", 1.0), ("mine", kept)) for split in ("train", "heldout")
    ]  # fmt: skip
    found = flags(rows)
    assert ("harms" in found["mine"]) == harms
    assert "harms" not in found["none"]


@pytest.mark.parametrize(
    ("note", "flag"), [("floor hit: κ is σ₁/1e-06", "floor"), ("its denominator is below 0.05", "denominator")]
)
def test_notes_raise_flags(note, flag):
    rows = [*clean(), rate("mine", "lora", "a", 1, None, metric="msgr", judged=None, note=note)]
    found = flags(rows)
    assert flag in found["mine"]
    assert flag not in found["none"]


def test_settings_chosen_on_what_is_reported():
    told = [row | {"tuned": row["seed"] == 1 and row["defense"] == "mine"} for row in clean()]
    made = leaderboard.make(frame(told)).standings.set_index("defense")["flags"].fillna("")
    assert made["mine"] == "tuned-here"
    assert made["none"] == ""
    untold = leaderboard.make(frame(clean())).standings["flags"]
    assert (untold == "tuning-untold").all()


def test_our_interval_excludes_the_published_figure():
    where = {"paper": "P", "table": "1", "setting": "g", "metric": "rate", "role": "harmful", "attacker": "lora"}
    figures = [{"defense": "mine", "value": 0.9, "note": "of another model"}, {"defense": "ascent", "value": 0.89}]
    published = pd.DataFrame([where | row for row in figures]).reindex(columns=leaderboard.PUBLISHED_SCHEMA)
    found = flags(clean(), published)
    assert "unlike-published" in found["mine"]
    assert "unlike-published" not in found["ascent"]
    assert "published: P, 1: of another model" in leaderboard.make(frame(clean()), published).markdown()


def test_flags_stand_in_the_table_below_it_and_in_the_long_form():
    wide = {1: 0.3, 2: 0.95, 3: 0.4, 4: 1.0, 5: 0.5}
    rows = clean(mine={"lora": lambda task, seed: wide[seed]}, other={"lora": 0.0}, third={"lora": 0.0})
    made = leaderboard.make(frame(rows))
    text = made.markdown()
    row = next(line for line in text.splitlines() if "| mine " in line)
    assert "no-better" in row
    assert "tuning-untold" not in row  # what all rows have is said below only
    assert f"no-better: {FLAGS['no-better'].meaning}" in text
    assert "tuning-untold (all rows)" in text
    long = made.board.set_index(["defense", "attacker"])["flags"]
    assert "no-better" in long["mine", "lora"].split()


def test_every_flag_says_what_it_means_and_what_to_do():
    assert len(FLAGS) >= 12
    for name, flag in FLAGS.items():
        assert name == flag.name
        assert len(name) <= 16
        assert flag.meaning
        assert flag.todo
        assert not flag.todo.endswith(".")
