"""A board as Markdown, without HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from urllib.parse import quote

import pandas as pd
from tabulate import tabulate

from harness.leaderboard.section import Section

FIRST = "_protection.png"
"""How the name of the picture ends that a section shows first."""


def markdown(sections: Sequence[Section], title: str, note: str = "") -> str:
    """The board as Markdown. note: a line below the title."""
    parts = [_text(f"# {title}"), _text(note)]
    for section in sections:
        parts += [_text(f"## {section.title}"), _text(section.verdict)]
        first = [file for file in section.pictures if file.endswith(FIRST)]
        parts += map(_picture, first)
        if section.headline:
            parts += [*map(_text, (tabulated(section.headline[0]), section.headline[1])), "### Details"]
        for title, table, below in section.details:
            parts += map(_text, (f"{title}:", tabulated(table), below))
        for table, below in section.tables:
            parts += [_text(tabulated(table)), _text(below)]
        parts.append(_text("\n".join(f"- {note}" for note in section.notes)))
        parts += [_picture(file) for file in section.pictures if file not in first]
    return "\n\n".join(part for part in parts if part) + "\n"


def _picture(file: str) -> str:
    """A picture, as Markdown."""
    return f"![{_text(file.rpartition('/')[2])}]({link(file)})"


def tabulated(table: pd.DataFrame) -> str:
    """A table in the form of GitHub's Markdown; a bar within a cell is escaped."""
    escaped = {
        name.replace("|", "\\|"): [text.replace("|", "\\|") for text in column] for name, column in texts(table).items()
    }
    return tabulate(escaped, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)


def texts(table: pd.DataFrame) -> dict[str, list[str]]:
    """A table's columns as texts, empty where there is nothing."""
    return {str(name): table[name].astype(object).fillna("").astype(str).tolist() for name in table.columns}


def link(file: str) -> str:
    """A relative path as a link."""
    return quote(file, safe="+@,=/")


def _text(text: str) -> str:
    """Markdown in which nothing is HTML."""
    return html.escape(text, quote=False)
