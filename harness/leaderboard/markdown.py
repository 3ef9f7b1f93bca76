"""A board as Markdown, without HTML, links and pictures but its own; and as plain text."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from urllib.parse import quote

import pandas as pd
from tabulate import tabulate

from harness.leaderboard.section import Section

FIRST = "_protection.png"
"""How the name of the picture ends that a section shows first."""


def escape(text: str) -> str:
    """Markdown that shows `text`, in which nothing is HTML, a link or a picture."""
    return re.sub(r"\](?=[(:\[])", r"]\\", html.escape(text, quote=False))


def markdown(sections: Sequence[Section], title: str, note: str = "", escape: Callable[[str], str] = escape) -> str:
    """The board as Markdown; flags that all rows of a grid share stand above its first table. note: a line below the
    title. escape: writes a text as what shows it."""
    parts = [escape(f"# {title}"), escape(note)]
    for section in sections:
        parts += [escape(f"## {section.title}"), escape(section.verdict)]
        first = [file for file in section.pictures if file.endswith(FIRST)]
        parts += map(_picture, first)
        parts.append(escape(_listed(section.shared)))
        if section.headline:
            parts += [*map(escape, (tabulated(section.headline[0]), section.headline[1])), "### Details"]
        for title, table, below in section.details:
            parts += map(escape, (f"{title}:", tabulated(table), below))
        for table, below in section.tables:
            parts += [escape(tabulated(table)), escape(below)]
        parts.append(escape(_listed(section.notes)))
        parts += [_picture(file) for file in section.pictures if file not in first]
    return "\n\n".join(part for part in parts if part) + "\n"


def _listed(notes: Sequence[str]) -> str:
    """A list of notes."""
    return "\n".join(f"- {note}" for note in notes)


def _picture(file: str) -> str:
    """A picture, as Markdown."""
    return f"![{escape(file.rpartition('/')[2])}]({link(file)})"


def tabulated(table: pd.DataFrame) -> str:
    """A table in the form of GitHub's Markdown; a bar within a cell is escaped."""
    escaped = {_cell(name): list(map(_cell, column)) for name, column in texts(table).items()}
    return tabulate(escaped, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)


def _cell(text: str) -> str:
    """Text in which no bar ends a cell, also after backslashes, two of which are one."""
    return re.sub(r"(\\*)\|", r"\1\1\\|", text)


def texts(table: pd.DataFrame) -> dict[str, list[str]]:
    """A table's columns as texts, empty where there is nothing."""
    return {str(name): table[name].astype(object).fillna("").astype(str).tolist() for name in table.columns}


def link(file: str) -> str:
    """A relative path as a link."""
    return quote(file, safe="+@,=/")
