"""Whole boards of hand-made records: their forms, files and pictures."""

import io
import math
import re

import pandas as pd
import pytest

from harness.leaderboard import boards, stats
from harness.metric import Quantity
from harness.ranking import Ranking
from tests.leaderboard.builders import asr, build, cells

CALLS = {"mine": "Mine(lr=0.1)", "none": "Undefended()", "lora": "LoRA(rank=8)", "sgd": "SGD()"}


def ranked_rows():
    """Two defenses, two attackers, three seeds, two measured steps."""
    rows = cells({
        "none": {"lora": 1.0, "sgd": 1.0},
        "mine": {"lora": lambda task, seed: 0.1 * seed, "sgd": 0.1},
    })  # fmt: skip
    return rows + [row | {"step": 30, "value": row["value"] / 2} for row in rows]


@pytest.fixture
def board():
    return boards.make(build(ranked_rows(), calls=CALLS, tier="self-reported"))


def test_files_of_a_board(board, tmp_path):
    sheets = [tmp_path / "run" / f"g__a__{name}__sheet.png" for name in ("none", "mine")]
    boards.write(board, tmp_path / "board", sheets)
    names = {path.name for path in (tmp_path / "board").iterdir()}
    tables = {"leaderboard.md", "leaderboard.csv", "leaderboard.tex", "rows.csv", "standings.csv", "comparisons.csv"}
    tables |= {"protection.csv", "protection_comparisons.csv", "strongest.csv"}
    assert names == tables | {"g_profile.png", "g_protection.png", "g_steps.png", "g_survival.png"}
    text = (tmp_path / "board" / "leaderboard.md").read_text()
    assert text.startswith("# s (version 1)\n\nTier: self-reported.\n\n## g (track elsewhere)\n")
    assert re.search(r"\| mine +\| 0.2 \[[^|]+\| 1 +\|", text)
    assert re.findall(r"\]\((.*\.png)\)", text) == [
        "g_protection.png", "g_profile.png", "g_steps.png", "g_survival.png",
        "../run/g__a__mine__sheet.png", "../run/g__a__none__sheet.png",
    ]  # fmt: skip
    latex = (tmp_path / "board" / "leaderboard.tex").read_text()
    assert (
        latex.count("\\toprule") == latex.count("\\bottomrule") == 1
    )  # protection, its two details, standings and values

    before = {path.name: path.read_bytes() for path in (tmp_path / "board").iterdir()}
    boards.write(boards.make(board.records), tmp_path / "board", sheets)
    assert {path.name: path.read_bytes() for path in (tmp_path / "board").iterdir()} == before


def test_markdown_and_csv_show_the_calls(board):
    text, csv = board.markdown(), board.csv()
    assert "- defense mine: Mine(lr=0.1)" in text
    assert "- attacker lora: LoRA(rank=8)" in text
    standings, rows = (pd.read_csv(io.StringIO(csv[name])) for name in ("standings.csv", "rows.csv"))
    assert list(standings["call"]) == ["Mine(lr=0.1)", "Undefended()"]
    assert list(rows.loc[rows["kind"] == "attacker", "call"]) == ["LoRA(rank=8)", "SGD()"]


def test_a_large_board_is_computed_in_parts(board, monkeypatch):
    """Of a defense, or of a pair of defenses, at a time."""
    failed = asr("mine", "sgd", "a", 1, None, status="failed", metric=None, step=None, measured_by="other", note="lost")
    records = build([*ranked_rows(), failed], calls=CALLS)
    whole = boards.make(records)
    monkeypatch.setattr(stats, "AT_ONCE", 7)
    parts = boards.make(records)
    for name in ("long", "standings", "comparisons", "protection", "protection_comparisons"):
        pd.testing.assert_frame_equal(getattr(parts, name), getattr(whole, name))


def test_the_verdict_the_picture_and_the_protection_come_first(board, tmp_path):
    text = board.markdown(["g_survival.png", "g_protection.png"])
    parts = [board.verdict["g"], "](g_protection.png)", "| mine: Mine(lr=0.1)", "### Details", "](g_survival.png)"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert board.tables["g"].equals(board.grids[0].section.headline[0])
    assert list(board.protection["defense"]) == ["none", "mine"]


def test_the_default_table_has_a_row_for_each_defense_and_attacker(board):
    """Values at the last step, with intervals, by the quantities' titles."""
    _, (table, below) = board.grids[0].section.tables
    assert "not installed" in below
    rows = {(row["defense"], row["attacker"]): row["ASR harmful"] for row in table.to_dict("records")}
    assert rows["none", "lora"] == "1"
    assert rows["mine", "lora"].startswith("0.2 [")
    assert rows["mine", "mean"].startswith("0.15 [")
    assert next(iter(rows)) == ("mine", "lora")  # in the order of the standings


def test_without_a_ranking_there_are_only_values():
    rows = [asr("none", None, "a", 1, 0.9, metric="retention", measured_by="retention", role="benign", step=None)]
    made = boards.make(build(rows, calls=CALLS, ranking=None))
    (section,) = [grid.section for grid in made.grids]
    assert [table.to_dict("records") for table, _ in section.tables] == [
        [{"defense": "none", "retention benign": "0.9"}]
    ]
    assert "defense none: Undefended()" in section.notes
    assert set(made.csv()) == {"leaderboard.csv", "rows.csv"}


def test_a_board_of_failed_cells_only_is_still_a_board(tmp_path):
    rows = [asr("none", "lora", "a", 1, None, status="failed", metric=None, role=None, note="out of memory")]
    boards.write(boards.make(build(rows)), tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "1 of 1 cells: out of memory" in text
    assert "missing (" in text


def test_failed_cells_stand_in_the_table_of_their_row():
    rows = ranked_rows()
    for row in rows:
        if (row["defense"], row["attacker"], row["seed"]) == ("mine", "sgd", 1):
            row |= {"status": "failed", "metric": None, "role": None, "value": None, "step": None, "note": "gone"}
    made = boards.make(build(rows))
    _, (table, _) = made.grids[0].section.tables
    texts = {(row["defense"], row["attacker"]): row["failed"] for row in table.to_dict("records")}
    assert texts["mine", "sgd"] == "2 of 6 cells: gone"
    assert texts["mine", "lora"] == texts["none", "sgd"] == ""
    assert "forfeited (2 of 6 cells)" in made.markdown()
    assert "forfeited" in made.standings.set_index("defense").loc["mine", "flags"]


TRACK = '''
import pandas as pd

from harness import BaseModel, Stage, Task, Track


class Small(Track):
    """A track with a table and a plot of its own."""

    name = "small_track"
    task_model = single_task_model = Task
    metrics = ("asr",)

    def immunize(self, repetition, defense):
        raise NotImplementedError

    attacks = measure = immunize

    def table(self, board):
        wide = board.groupby(["grid", "defense"], sort=False)["value"].max().reset_index()
        wide["best"] = wide.pop("value").map("{:.1f}".format)
        wide.attrs["caption"] = "best: the highest value."
        return wide

    def plots(self, records, out):
        path = out / f"{records['grid'].iloc[0]}_own.png"
        path.write_bytes(b"picture")
        return [path]
'''


@pytest.fixture
def track(tmp_path):
    """A plugin file with a track."""
    path = tmp_path / "small_track.py"
    path.write_text(TRACK)
    return path


def test_a_tracks_own_table_replaces_the_default_one_and_its_plots_are_added(track, tmp_path):
    rows = [row | {"track": "small_track"} for row in ranked_rows()]
    made = boards.make(build(rows, suite={"plugins": [track]}))
    (_, (table, below)) = made.grids[0].section.tables
    assert table.to_dict("records") == [{"defense": "mine", "best": "0.2"}, {"defense": "none", "best": "1.0"}]
    assert below == "best: the highest value."
    boards.write(made, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "g_profile.png", "g_own.png", "g_protection.png", "g_steps.png", "g_survival.png",
    }  # fmt: skip


def test_further_metrics_have_a_table_beside_the_tracks_own(track):
    rows = [row | {"track": "small_track"} for row in ranked_rows()]
    further = {"track": "small_track", "metric": "rank", "measured_by": "effective_rank", "step": None}
    rows += [asr("mine", None, "a", 1, 7.0) | further]
    quantities = [Quantity(name="rank", title="effective rank", description="of the features")]
    made = boards.make(build(rows, quantities=quantities, suite={"plugins": [track]}))
    *_, (table, below) = made.grids[0].section.tables
    assert table.to_dict("records") == [{"defense": "mine", "effective rank harmful": "7"}]
    assert below == "Values of metric plugins beside the track's own."


def test_grids_with_names_that_begin_alike_have_their_own_pictures():
    pictures = ["g_steps.png", "g_two_steps.png", "../x/g__a__none__sheet.png", "../x/g_two__a__none__sheet.png"]
    assert boards.pictures_by_grid(pictures, ["g", "g_two"]) == {
        "g": ["g_steps.png", "../x/g__a__none__sheet.png"],
        "g_two": ["g_two_steps.png", "../x/g_two__a__none__sheet.png"],
    }


def test_what_all_grids_leave_out_is_reported_once():
    rows = ranked_rows() + [row | {"grid": "h"} for row in ranked_rows()]
    own = {"g": {"changed": ["seeds 1 instead of 1, 2"]},
           "h": {"changed": ["seeds 1 instead of 1, 2", "1 of 2 attackers"]}}  # fmt: skip
    made = boards.make(build(rows, grids=own))
    assert made.title == "s (version 1), part: seeds 1 instead of 1, 2; h: 1 of 2 attackers"
    assert [grid.section.title for grid in made.grids] == ["g (track elsewhere)", "h (track elsewhere)"]


def test_a_ranking_of_released_models_needs_no_attacker():
    rows = [
        asr(defense, None, "a", seed, value * seed, metric="rir", measured_by="conditioning", role=None, step=None)
        for seed in (1, 2)
        for defense, value in (("none", 1.0), ("mine", 30.0))
    ]
    ranking = Ranking(value={"metric": "rir"}, better="higher", resolution=0.001)
    made = boards.make(build(rows, ranking=ranking))
    table, _ = made.grids[0].section.tables[0]
    assert list(table["defense"]) == ["mine", "none"]
    assert "RIR [95 %]" in table
    assert "by" not in table


def test_the_ranking_table_shows_an_interval_for_other_tasks_where_there_are_several():
    """Values .2, .4 and .6 on three tasks, ±.1 between seeds."""

    def shown(tasks, seeds=(1, 2, 3)):
        of_task = {"a": 0.2, "b": 0.4, "c": 0.6}
        rows = cells({"none": {"lora": 1.0}}, tasks)
        rows += cells({"mine": {"lora": lambda task, seed: of_task[task] + 0.1 * ((seed or 2) - 2)}}, tasks, seeds)
        (table, below), *_ = boards.make(build(rows)).grids[0].section.tables
        (title,) = (name for name in table if name.startswith("worst"))
        return table.set_index("defense").loc["mine", title], title, below

    text, title, below = shown("abc")
    of_seeds = math.sqrt((0.1**2 + 0.05**2 / 12) / 3)  # with the variance of rounding to .05
    of_both = math.sqrt(0.2**2 / 3 + 0.1**2 / 3)
    inner, outer = (re.findall(r"-?[\d.]+", part) for part in re.search(r"\[(.*)\] \((.*)\)", text).groups())
    assert float(inner[1]) - 0.4 == pytest.approx(4.303 * of_seeds, abs=1e-3)
    assert float(outer[1]) - 0.4 > 2.776 * of_both  # t at no more than 4 degrees of freedom
    assert title == "worst ASR [95 %] (other tasks)"
    assert "in parentheses one for other tasks" in below
    text, title, below = shown("b")
    assert "(" not in text + title.removeprefix("worst ASR ")
    assert "in parentheses" not in below
    assert re.fullmatch(r"0\.4 \(.+\)", shown("abc", seeds=(None,))[0])
