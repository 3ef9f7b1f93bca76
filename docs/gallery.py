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
    entries = []
    for board in boards:
        title, *grids = re.split(r"^## ", board.read_text(encoding="utf-8"), flags=re.MULTILINE)
        grid = max(grids, key=lambda grid: f"{FIRST})" in grid)  # the first with costs to break, else the first
        name, sentences, *_ = grid.split("\n\n")
        shown = ""
        if (picture := _picture(grid, board.parent)) is not None:
            place = f"gallery/{board.parent.name}/{picture.name}"
            files.append(File.generated(config, place, abs_src_path=str(picture)))
            shown = f"![{board.parent.name}: {picture.stem}]({place})"
        where = f"All tables: `results/leaderboards/{board.parent.name}/leaderboard.md`."
        entries += [f"#{title.splitlines()[0]}", shown, f"`{name.split()[0]}`: {opening(sentences)} {where}"]
    if boards:
        files.append(File.generated(config, PAGE, content="\n\n".join([HEAD, *entries]) + "\n"))
    return files


def _picture(grid: str, folder: Path) -> Path | None:
    """Of the pictures in a grid's part of the board in `folder`, that of the costs to break, else the first in the
    folder; None if there is none."""
    linked = [folder / unquote(link) for link in re.findall(r"!\[.*?\]\((.*?)\)", grid)]
    own = [file for file in linked if file.parent == folder and file.is_file()]
    return next((file for file in own if file.name.endswith(FIRST)), own[0] if own else None)
