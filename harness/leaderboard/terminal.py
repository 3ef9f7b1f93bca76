"""A board on a terminal: for each grid the sentences, one table that fits, and a line of flags."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from io import StringIO

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.leaderboard.markdown import printable, texts
from harness.leaderboard.tables import CI

GAP = 2
"""Spaces between two columns."""
NAME = 26
"""Widest column of names; longer names are broken between words."""
FLAGS = "flags"
READING = {
    " [": "In brackets: 95 % intervals.",
    "≥": "≥: at least.",
    " a": "Rows that share a letter are not separated.",
}
"""How to read a table in which a cell holds the mark."""


def summary(tables: Mapping[str, pd.DataFrame], verdict: Mapping[str, str], width: int) -> str:
    """The board in lines of at most `width` characters. tables, verdict: by grid, its first table and its sentences."""
    console = Console(file=StringIO(), width=width, color_system=None, force_terminal=False, highlight=False)
    for grid, table in tables.items():
        rows = {printable(title): [printable(text) for text in column] for title, column in texts(table).items()}
        shown, below = _fitted(rows, width)
        console.rule(printable(grid), align="left", characters="─")
        for text in (printable(verdict[grid]), shown, below, _flags(rows, width)):
            if text:
                console.print(text, markup=False)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # it is a StringIO
    return "\n".join(line.rstrip() for line in lines)


def _fitted(rows: Mapping[str, Sequence[str]], width: int) -> tuple[Table, str]:
    """The columns that fit, in their order, and a line on how to read them and on those that do not."""
    widths: dict[str, int] = {}
    free = width + GAP
    columns = {title.replace(f" {CI}", ""): column for title, column in rows.items() if title != FLAGS}
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


def _flags(rows: Mapping[str, Sequence[str]], width: int) -> str:
    """The flags of the rows as one line."""
    flagged: dict[str, list[str]] = {}
    for name, flags in zip(rows["defense"], rows.get(FLAGS, []), strict=False):
        for flag in flags.split():
            flagged.setdefault(flag, []).append(name.partition(": ")[0].partition(" ")[0])
    text = "; ".join(f"{flag}: {', '.join(names)}" for flag, names in flagged.items())
    return textwrap.shorten(f"Flags: {text}.", width, placeholder=" …") if text else ""
