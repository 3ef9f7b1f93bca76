"""A board as Markdown, without HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from urllib.parse import quote

import pandas as pd
from tabulate import tabulate

from harness.leaderboard.section import Section


def markdown(sections: Sequence[Section], title: str, note: str = "") -> str:
    """The board as Markdown. note: a line below the title."""
    parts = [_text(f"# {title}"), _text(note)]
    for section in sections:
        parts.append(_text(f"## {section.title}"))
        for table, below in section.tables:
            parts += [_text(tabulated(table)), _text(below)]
        parts.append(_text("\n".join(f"- {note}" for note in section.notes)))
        parts += [f"![{_text(file.rpartition('/')[2])}]({link(file)})" for file in section.pictures]
    return "\n\n".join(part for part in parts if part) + "\n"


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
