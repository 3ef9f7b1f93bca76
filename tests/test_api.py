"""What a run returns, and what a terminal and a notebook show of it."""

import re

import pandas as pd
import pytest

import harness
from harness import UsageError
from harness.leaderboard import terminal
from tests.helpers import ROOT
from tests.runs import TRACK, TWO_LAYER


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run and its folder."""
    folder = tmp_path_factory.mktemp("run")
    return harness.run(TWO_LAYER, workers=1, store=folder / "store", out=folder / "out"), folder / "out"


def test_a_notebook_shows_sentences_table_and_flags_of_each_grid(made):
    shown = made[0]._repr_html_()
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
    with pytest.raises(UsageError, match=r"holds no run\.json\.gz"):
        harness.load(out.parent)


def test_the_columns_of_records_are_documented(made):
    page = (ROOT / "docs" / "pages" / "compare.md").read_text()
    columns = [*made[0].records, *pd.read_parquet(made[1] / "records.parquet")]
    assert set(columns) <= set(re.findall(r"`(\w+)`", page.partition("The columns of the records")[2]))


def test_what_cannot_be_plotted_is_one_line(made):
    with pytest.raises(UsageError, match="no grid 'teacher'; did you mean teachers"):
        made[0].plot("teacher")
    with pytest.raises(UsageError, match="no cost to break is known"):
        made[0].plot()


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
    text = terminal.summary({"g": table}, {"g": "At 95 % retention, " + "nothing is shown. " * 12}, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    (row,) = (line for line in lines if line.startswith("imma_linear"))
    assert row.split() == ["imma_linear", "≥1.51×", "[1.41,", "1.61]", "a", "0.973"]
    words = " ".join(text.split())
    assert f"Not shown: {far}." in words
    assert "In brackets: 95 % intervals." in words
    assert lines[-1] == "Flags: no-better: imma_linear, none; control-as-good: imma_linear."


def test_a_summary_commands_no_terminal():
    table = pd.DataFrame({"defense": ["\x1b[2Jrow"], "flags": [""]})
    assert "\x1b" not in terminal.summary({"g": table}, {"g": "[red]\x1b[1m"}, 80)
