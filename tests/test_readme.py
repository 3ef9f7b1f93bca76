"""The README, and the page of what the boards say: values that the boards have, and names and links that exist."""

import re

import pandas as pd
import pytest
import yaml

from harness.leaderboard.headline import times
from harness.leaderboard.tables import intervals
from harness.plugin import KINDS
from harness.registry import installed
from tests.helpers import ROOT

README = (ROOT / "README.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL))
BOARDS = ROOT / "results" / "leaderboards"
PAGE = (ROOT / "docs" / "pages" / "boards.md").read_text()
PARAGRAPHS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL))
BULLETS = [" ".join(bullet.split()) for bullet in re.split(r"^- ", SECTIONS["Results so far"], flags=re.MULTILINE)[1:]]
WORD = re.compile(r"`([^`]+)`( ≥?\d[\d.]*(?:×(?: \[[^\])]*[\])])?|(?: \[[^\]]*\])? \([^)]*\)))?")
"""A name, and the value that follows it."""


def test_it_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("bullet", BULLETS, ids=lambda bullet: bullet.split("**")[1])
def test_results_are_those_of_their_boards(bullet):
    """A bullet links its board, and names in code a grid, a threat model if the grid has several, and rows."""
    folder = ROOT / re.search(r"\((results/leaderboards/\w+)/leaderboard\.md", bullet)[1]
    grid = checked(bullet, folder)
    if number := re.search(r"(\d+) seeds", bullet):
        seeds = pd.read_csv(folder / "leaderboard.csv")
        assert seeds.loc[seeds["grid"] == grid, "n_seeds"].max() == int(number[1])


def test_the_page_has_a_paragraph_for_every_board():
    assert set(PARAGRAPHS) == {folder.name for folder in BOARDS.iterdir() if folder.is_dir()}


@pytest.mark.parametrize("board", [board for board, text in PARAGRAPHS.items() if re.search(r"` ≥?\d", text)])
def test_a_paragraph_has_the_values_of_its_board(board):
    checked(" ".join(PARAGRAPHS[board].split()), BOARDS / board)


def checked(text, folder):
    """Check each value of `text` against the board in `folder`; return the last grid that it names."""
    protection, standings = (pd.read_csv(folder / name) for name in ("protection.csv", "standings.csv"))
    grid = model = None
    values = 0
    for name, value in WORD.findall(text):
        if name in set(standings["grid"]):
            grid = name
        elif name in set(protection["threat_model"]):
            model = name
        elif "×" in value:
            at = (protection["grid"] == grid) & (protection["defense"] == name)
            (row,) = (row for _, row in protection[at].iterrows() if model in (None, row["threat_model"]))
            assert value.strip() == times(row)
            values += 1
        elif value:
            (row,) = (row for _, row in standings.iterrows() if (row["grid"], row["defense"]) == (grid, name))
            assert value.strip() == intervals(row.rename({"worst": "value"}))
            values += 1
    assert values
    return grid


def test_it_names_every_suite_and_only_plugins_that_exist():
    suites = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", SECTIONS["Suites"], re.MULTILINE))))
    assert suites == {entry.name for entry in installed().all("suite")}
    plugins = {entry.name for kind in KINDS for entry in installed().all(kind)}
    assert set(re.findall(r"`(\w+)`", SECTIONS["Methods and papers"])) <= plugins


def test_a_row_of_suites_names_all_numbers_of_seeds_of_their_grids():
    rows = re.findall(r"^\| `.*\d seeds?\b.*", SECTIONS["Suites"], re.MULTILINE)
    assert rows
    for row in rows:
        suites = [yaml.safe_load((ROOT / f"suites/{name}.yaml").read_text()) for name in re.findall(r"`(\w+)`", row)]
        seeds = {grid.get("seeds", suite["seeds"]) for suite in suites for grid in suite["grids"]}
        assert {int(number) for number in re.findall(r"(\d+) seed", row)} == seeds, row


def test_its_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
