"""The readable board as Markdown, and as LaTeX that compiles."""

import csv
import io
import re
import shutil
import string
import subprocess

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.errors import printable
from harness.execution.failure import line
from harness.leaderboard.boards import as_csv
from harness.leaderboard.latex import escape, latex
from harness.leaderboard.markdown import markdown
from harness.leaderboard.section import Section

NASTY = r"50 % of κ ≥ 2 & θ_1 #3 {a} ~b^c $d \e <f> | “é” – 日"
SECTIONS = [Section(f"grid {NASTY}", [(pd.DataFrame({NASTY: [NASTY, None]}), NASTY)], [NASTY, "plain"])]
DOCUMENT = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"


@example("﹟﹠＿")  # whose plain forms are special
@given(st.text(st.sampled_from(NASTY) | st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40))
def test_latex_is_ascii_with_every_special_letter_escaped(text):
    escaped = escape(text)
    assert escaped.isascii()
    bare = re.sub(r"\\(textbackslash\{\}|textasciitilde\{\}|\^\{\}|ensuremath\{[^}]*\}|[{}&%$#_])", "", escaped)
    assert not set(bare) & set("\\{}&%$#_^~<>")


@given(st.text(string.ascii_letters + string.digits + " .,;:()-+=", max_size=40))
def test_plain_text_stays_as_it_is(text):
    assert escape(text) == text


def test_latex_compiles(tmp_path):
    """By plain pdfLaTeX where there is one; everywhere, by its form."""
    text = latex(SECTIONS, NASTY)
    assert text.isascii()
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
    assert text.count("\\begin{") == text.count("\\end{")
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed, so the snippet was checked by its form only")
    (tmp_path / "x.tex").write_text(DOCUMENT % text)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"], cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:]


def test_a_grid_is_one_table_with_numbers_aligned_and_the_separated_best_in_bold():
    rows = {"defense": ["mine: Mine(lr=0.1, k=2)", "none (undefended): Undefended()"], "cost to break: lora [95 %]": [
        "≥2× [1.5, 3] a", "1× b"], "retention": ["0.97", "1"], "flags": ["harms", None]}  # fmt: skip
    verdict = "At 95 % retention, mine delays the attack 2×. The row other retains less."
    headline = pd.DataFrame(rows), "Below."
    text = latex([Section("styles_two (track diffusion)", [], [], headline=headline, verdict=verdict)], "t")
    assert r"\begin{tabular}{@{}lrrl@{}}" in text
    assert r"\caption{styles\_two (track diffusion). At 95 \% retention, mine delays the attack 2" in text
    assert "The row other" not in text
    assert r"\label{tab:styles-two-track-diffusion}" in text
    assert r"\shortstack{cost to break: \\ lora [95 \%]}" in text
    (mine,), (none,) = ([line for line in text.splitlines() if line.startswith(name)] for name in ("mine", "none"))
    assert mine.startswith(r"mine & \textbf{\ensuremath{\geq}2")
    assert mine.endswith(r"& 0.97 & harms \\")
    assert none == r"none (undefended) & 1\ensuremath{\times} b & 1 &  \\"


@pytest.mark.parametrize("letters", [["a"], ["a", "ab", "b"], ["a", "a", "b"], ["ab", "b", "c"], ["", ""]])
def test_what_is_not_separated_from_all_others_is_not_in_bold(letters):
    costs = [f"2× [1, 3] {letter}".strip() for letter in letters]
    rows = pd.DataFrame({"defense": [f"d{place}: D()" for place in range(len(letters))], "cost": costs})
    assert "textbf" not in latex([Section("g", [], [], headline=(rows, ""))], "t")


def test_a_table_that_is_wider_than_a_line_is_continued():
    """By name of its rows; each column is in one of the tables."""
    names = ["probes on the features", "probes on scaled features", "fine-tuning", "low-rank adapters"]
    columns = {f"cost to break: {name} [95 %]": ["≥2.79× [1.62, 4.79] abc", "1×"] for name in names}
    wide = pd.DataFrame({"defense": ["condition_number", "none (undefended)"], **columns, "retention": "0.983"})
    text = latex([Section("g", [], [], headline=(wide, "Below."))], "t")
    first, *others = text.split(r"\begin{table}")[1:]
    assert others
    assert "Below." in first
    for table in others:
        assert r"\caption{Table~\ref{tab:g}, continued.}" in table
        assert "condition\\_number & " in table
    assert text.count("cost to break:") == 4
    assert text.count("retention") == 1


def test_markdown_shows_text_as_text():
    text = markdown([Section("<b>", [(pd.DataFrame({"<i>": ["<u>&"]}), "<s>")], ["<q>"])], "<h>")
    assert not re.search("<(b|i|u|s|q|h)>", text)
    assert "&lt;u&gt;&amp;" in text


def test_text_makes_no_link_and_no_picture():
    notes = ["![x](http://a.b/c.png)", "[x](http://a.b)", "[x][y]", "[x]: http://a.b", "in [0.1, 0.2] and (1)"]
    text = markdown([Section("g", [], notes)], "t")
    assert not re.search(r"\][(:\[]", text)
    assert notes[-1] in text


MARKS = st.sampled_from("|\\`[]()!<>*_#&:;=~-+@$\"' \u202e")
LINES = st.text(MARKS | st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=30)


@example("\\|")
@example("![x](http://a.b)")
@example("[x]: http://a.b")
@example("`|`<img src=x>")
@given(LINES)
def test_a_reader_of_markdown_finds_no_link_picture_html_or_cell_in_a_text(text):
    page = markdown([Section("g", [(pd.DataFrame({text or "a": [text], "": ["1"]}), text)], [text, "end"])], "t", text)
    tokens = [part for token in MarkdownIt("commonmark").enable("table").parse(page) for part in
              (token, *(token.children or ()))]  # fmt: skip
    kinds = [token.type for token in tokens]
    assert not {"link_open", "image", "html_block", "html_inline"} & set(kinds)
    assert (kinds.count("th_open"), kinds.count("td_open")) == (2, 2)


@given(st.text(MARKS | st.characters(), max_size=60))
def test_an_error_on_a_terminal_is_one_line_without_commands(text):
    """Also with parts of letters, as of names of files."""
    shown = line(ValueError(text))
    assert shown.isprintable()
    assert printable(shown) == shown
    shown.encode()


@given(st.text(max_size=60))
def test_a_terminal_gets_the_text_and_no_commands(text):
    shown = markdown([Section(text, [], [text])], "< 0.001", escape=printable)
    assert "# < 0.001" in shown
    assert all(letter.isprintable() or letter == "\n" for letter in shown)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5))
@example(["=1+1", "+1", "-1", "@x", "\tx", "\r", "\n=1", "＝1", "＠x"])
def test_no_text_of_a_csv_file_is_a_formula(texts):
    table = pd.DataFrame({"text": pd.array(texts, "string"), "number": -1.0})
    rows = list(csv.reader(io.StringIO(as_csv(table), newline="")))[1:]
    assert [row[0].removeprefix("'") for row in rows] == [text.replace("\r", " ").removeprefix("'") for text in texts]
    assert not any(row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＠")) for row in rows)
    assert {row[1] for row in rows} == {"-1.0"}


def test_a_picture_is_linked_where_it_lies():
    text = markdown([Section("g", [], [], ["../../submissions/my run/g__a b__none__sheet.png"])], "t")
    assert "![g__a b__none__sheet.png](../../submissions/my%20run/g__a%20b__none__sheet.png)" in text


def test_flags_of_all_rows_stand_above_the_first_table():
    few, harms = "few-seeds (all rows; 3): fewer than 5 seeds.", "harms (mine): retains less."
    tables = [(pd.DataFrame({"defense": ["mine"]}), "Below.")]
    text = markdown([Section("g", tables, ["defense mine: Mine()", harms], shared=[few])], "t")
    assert text.index("## g") < text.index(few) < text.index("| defense") < text.index("Mine()") < text.index(harms)


def test_markdown_keeps_a_bar_within_its_cell():
    text = markdown([Section("g", [(pd.DataFrame({"a": ["x|y"], "b": [""]}), "")], [])], "t")
    (row,) = [line for line in text.splitlines() if "x" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
