"""What a run returns, and what a terminal and a notebook show of it."""

import re
from types import SimpleNamespace

import pandas as pd
import pytest

import harness
from harness import UsageError
from harness.execution import progress
from harness.execution.scheduler import Progress
from harness.leaderboard import terminal
from harness.leaderboard.flags import Raised
from tests.helpers import ROOT
from tests.runs import TRACK, TWO_LAYER


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run and its folder."""
    folder = tmp_path_factory.mktemp("run")
    return harness.run(TWO_LAYER, workers=1, store=folder / "store", out=folder / "out"), folder / "out"


def test_a_notebook_shows_the_title_and_sentences_table_and_flags_of_each_grid(made):
    shown = made[0]._repr_html_()
    assert shown.startswith("<h2>two_layer (version 1)</h2>")
    assert shown.index("<h3>teachers</h3>") < shown.index("<table") < shown.index("few-seeds")
    assert "<td>shrinking" in shown


def test_an_earlier_run_is_loaded_with_the_same_outcome(made):
    result, out = made
    loaded = harness.load(out, plugins=[TRACK])
    assert loaded.tables.keys() == result.tables.keys()
    for grid, table in result.tables.items():
        pd.testing.assert_frame_equal(loaded.tables[grid], table)
    assert (loaded.verdict, loaded.flags, loaded.text) == (result.verdict, result.flags, result.text)
    assert len(loaded.records) == len(result.records)
    assert repr(loaded) == repr(result) == result.summary()
    assert repr(result).startswith("two_layer (version 1)\n")
    assert "few-seeds (all rows)" in repr(result)
    with pytest.raises(UsageError, match=r"holds no run\.json\.gz"):
        harness.load(out.parent)


def test_a_run_shows_its_progress_unless_it_is_silent_or_has_callbacks(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    part = {"workers": 1, "seeds": 1, "tasks": "1"}
    harness.run(TWO_LAYER, defenses="none", **part)
    assert re.search("(\\d+) of \\1 jobs, 0 failed, 0 from the store", capsys.readouterr().err)
    finished = []

    class Mine(Progress):
        def finished(self, job, outcome):
            finished.append(job.name)

    for mine in (Mine(), False):
        harness.run(TWO_LAYER, defenses="shrinking", progress=mine, **part)
        assert capsys.readouterr().err == ""
    assert "adapt" in finished


def test_another_released_model_is_replaced_only_by_force(tiny, tmp_path):
    out = tmp_path / "mine"
    for _ in range(2):
        harness.release(tiny, "random_init", out, seed=1)
    weights = (out / "model.safetensors").read_bytes()
    for other, seed in (("none", 1), ("random_init", 2)):
        with pytest.raises(
            UsageError, match=r"holds a released model \(random_init, task house_prices.*, seed 1, .*--force"
        ):
            harness.release(tiny, other, out, seed=seed)
    assert (out / "model.safetensors").read_bytes() == weights
    harness.release(tiny, "none", out, seed=1, force=True)
    assert (out / "model.safetensors").read_bytes() != weights
    harness.release(tiny, "none", out, seed=1)


def test_the_columns_of_records_are_documented(made):
    page = (ROOT / "docs" / "pages" / "compare.md").read_text()
    columns = [*made[0].records, *pd.read_parquet(made[1] / "records.parquet")]
    assert set(columns) <= set(re.findall(r"`(\w+)`", page.partition("The columns of the records")[2]))


def test_what_cannot_be_plotted_is_one_line(made):
    with pytest.raises(UsageError, match="no grid 'teacher'; did you mean teachers"):
        made[0].plot("teacher")
    with pytest.raises(UsageError, match="no cost to break is known"):
        made[0].plot()


def board(table, verdict, raised=(), defenses=("none",), title="s (version 1)"):
    """What a summary reads of a board: one grid, g."""
    grid = SimpleNamespace(grid=SimpleNamespace(name="g", defenses=defenses), raised=raised)
    return SimpleNamespace(title=title, tables={"g": table}, verdict={"g": verdict}, grids=[grid])


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_summary_fits_its_lines_and_names_the_other_columns(width):
    ratio, far = "cost to break: matrix-free methods [95 %]", "a column that is far too wide for any terminal"
    table = pd.DataFrame(
        {
            "defense": ["imma_linear: IMMA(inner_steps=0)", "none (undefended): Undefended()"],
            ratio: ["≥1.51× [1.41, 1.61] a", "1× b"],
            far: ["x" * 130, ""],
            "retention": ["0.973", "1"],
            "flags": ["no-better control-as-good", "no-better"],
        }
    )
    title = "house_prices (version 6), part: 2 of 16 defenses; " + "; ".join(f"adam lr=0.{i}" for i in range(9))
    text = terminal.summary(board(table, "At 95 % retention, " + "nothing is shown. " * 12, title=title), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    (row,) = (line for line in lines if line.startswith("imma_linear"))
    assert row.split() == ["imma_linear", "≥1.51×", "[1.41,", "1.61]", "a", "0.973"]
    words = " ".join(text.split())
    assert words.startswith(f"{title} g ─")
    assert f"Not shown: {far}." in words
    assert "In brackets: 95 % intervals." in words


def test_a_summary_names_every_flag_and_where_it_was_raised():
    defenses = ["none", "imma", "mima", "joint", "ascent"]
    wherever = {"unheard_of": defenses[:1], "few-seeds": defenses, "no-better": defenses[1:], "harms": ["mima", "imma"]}
    raised = [Raised(row, None, name) for name, rows in wherever.items() for row in rows]
    raised += [Raised("mima", attacker, "lower-bound") for attacker in ("lora", "full")]
    text = terminal.summary(board(pd.DataFrame({"defense": defenses}), "", raised, defenses), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert " ".join(text.split()).endswith(
        "Flags: few-seeds (all rows), no-better (4 rows), harms (imma, mima), lower-bound (mima), unheard_of (none)."
    )


def test_a_notebook_gets_the_summary_as_a_text_and_shows_nothing_else(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    text = terminal.summary(board(pd.DataFrame({"defense": ["mine"]}), "A sentence."), 80)
    assert text.splitlines() == ["s (version 1)", "g " + 78 * "─", "A sentence.", "defense", "mine"]


def test_a_summary_commands_no_terminal():
    table = pd.DataFrame({"defense": ["\x1b[2Jrow"], "flags": [""]})
    assert "\x1b" not in terminal.summary(board(table, "[red]\x1b[1m", title="\x1b[2Jx"), 80)
