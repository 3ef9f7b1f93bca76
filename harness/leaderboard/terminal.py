"""A board on a terminal: its title, and for each grid the sentences, one table that fits, and the flags."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.errors import printable
from harness.leaderboard.flags import FLAGS, Raised
from harness.leaderboard.markdown import texts
from harness.leaderboard.tables import CI

if TYPE_CHECKING:
    from harness.leaderboard.boards import Board

GAP = 2
"""Spaces between two columns."""
NAME = 26
"""Widest column of names; longer names are broken between words."""
NAMED = 3
"""Most rows that a flag names; of more it gives the number."""
READING = {
    " [": "In brackets: 95 % intervals.",
    "≥": "≥: at least.",
    " a": "Rows that share a letter are not separated.",
}
"""How to read a table in which a cell holds the mark."""


def summary(board: Board, width: int) -> str:
    """The board in lines of at most `width` characters."""
    console = Console(
        file=StringIO(), width=width, color_system=None, force_terminal=False, force_jupyter=False, highlight=False
    )
    console.print(printable(board.title), markup=False)
    for one in board.grids:
        grid = one.grid
        table = texts(board.tables[grid.name])
        rows = {printable(title): [printable(text) for text in column] for title, column in table.items()}
        shown, below = _fitted(rows, width)
        console.rule(printable(grid.name), align="left", characters="─")
        flags = printable(_flags(one.raised, grid.defenses))
        for text in (printable(board.verdict[grid.name]), shown, below, flags):
            if text:
                console.print(text, markup=False)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # it is a StringIO
    return "\n".join(line.rstrip() for line in lines)


def _fitted(rows: Mapping[str, Sequence[str]], width: int) -> tuple[Table, str]:
    """The columns that fit, in their order, and a line on how to read them and on those that do not."""
    widths: dict[str, int] = {}
    free = width + GAP
    columns = {title.replace(f" {CI}", ""): column for title, column in rows.items() if title != "flags"}
    columns["defense"] = [name.partition(": ")[0] for name in rows["defense"]]
    for title, column in columns.items():
        parts = [" ".join(column), title] if title == "defense" else [title]
        word = max(map(cell_len, " ".join(parts).split()))
        needed = max(word, *map(cell_len, column))
        needed = min(needed, max(NAME, word)) if title == "defense" else needed
        if needed + GAP <= free:
            widths[title] = needed
            free -= needed + GAP
    while free > 0 and (broken := [title for title in widths if cell_len(title) > widths[title]]):
        widths[max(broken, key=lambda title: cell_len(title) / widths[title])] += 1
        free -= 1
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for title, needed in widths.items():
        table.add_column(title, width=needed, overflow="fold")
    for row in zip(*(columns[title] for title in widths), strict=True):
        table.add_row(*map(Text, row))
    cells = [text for title in widths for text in columns[title]]
    notes = [note for mark, note in READING.items() if any(mark in text for text in cells)]
    if left_out := [title for title in columns if title not in widths]:
        notes.append(f"Not shown: {', '.join(left_out)}.")
    return table, " ".join(notes)


def _flags(raised: Sequence[Raised], defenses: Collection[str]) -> str:
    """Every flag raised on a grid as a sentence, with the names or the number of its rows. defenses: the grid's."""
    flagged: dict[str, set[str]] = {name: set() for name in FLAGS}
    for one in raised:
        flagged.setdefault(one.flag, set()).add(one.defense)
    parts = [f"{name} ({_rows(flagged[name], defenses)})" for name in flagged if flagged[name]]
    return f"Flags: {', '.join(parts)}." if parts else ""


def _rows(flagged: Collection[str], defenses: Collection[str]) -> str:
    """Where a flag was raised. flagged: its rows, of the grid's `defenses`."""
    if len(flagged) == len(defenses):
        return "all rows"
    if len(flagged) > NAMED:
        return f"{len(flagged)} rows"
    return ", ".join(row for row in defenses if row in flagged)
