"""Adds a gallery of the committed boards: the first picture and the first sentence of each. An installed package has no
boards, and no gallery."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from harness.leaderboard.markdown import FIRST
from harness.leaderboard.verdict import opening

BOARDS = Path(__file__).parents[1] / "results" / "leaderboards"
PAGE = "gallery.md"
BEFORE = {"What the boards say": "boards.md"}
"""The page in the navigation that the gallery follows."""
HEAD = """# Gallery of boards

The first picture and the first sentence of each committed board, read from its file.
[What the boards say](boards.md) has a paragraph for each board, and says which are of earlier suites.
The [glossary](glossary.md) explains the words."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make a place for the gallery in the navigation."""
    if BOARDS.is_dir():
        config.nav.insert(config.nav.index(BEFORE) + 1, {"Gallery of boards": PAGE})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the gallery and its pictures to what is built."""
    boards = sorted(BOARDS.glob("*/leaderboard.md"))
    for board in boards:
        if (picture := _picture(board)) is not None:
            place = f"gallery/{board.parent.name}/{picture.name}"
            files.append(File.generated(config, place, abs_src_path=str(picture)))
    if boards:
        files.append(File.generated(config, PAGE, content="\n\n".join([HEAD, *map(_entry, boards)]) + "\n"))
    return files


def _entry(board: Path) -> str:
    """One board in the gallery."""
    title, *_ = board.read_text(encoding="utf-8").splitlines()
    grid, sentences, *_ = _grid(board).split("\n\n")
    picture = _picture(board)
    shown = f"![{board.parent.name}: {picture.stem}](gallery/{board.parent.name}/{picture.name})" if picture else ""
    where = f"All tables: `results/leaderboards/{board.parent.name}/leaderboard.md`."
    return "\n\n".join([f"#{title}", shown, f"`{grid.split()[0]}`: {opening(sentences)} {where}"])


def _grid(board: Path) -> str:
    """The part of a board on its first grid with costs to break, else on its first grid."""
    grids = re.split(r"^## ", board.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return max(grids, key=lambda grid: f"{FIRST})" in grid)


def _picture(board: Path) -> Path | None:
    """The picture of the costs to break, else the first in the board's folder; None if there is none."""
    linked = [board.parent / unquote(link) for link in re.findall(r"!\[.*?\]\((.*?)\)", _grid(board))]
    own = [file for file in linked if file.parent == board.parent and file.is_file()]
    return next((file for file in own if file.name.endswith(FIRST)), own[0] if own else None)
