"""A board's tables as LaTeX in plain ASCII."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from harness.leaderboard.markdown import texts
from harness.leaderboard.section import Section
from harness.leaderboard.verdict import opening

CALL = r": \w+\(.*$"
"""The call of a row of the first table, which a paper's table has no room for."""
LETTERS = re.compile(r" ([a-z]+)$")
"""The letters at the end of a value: rows that share one are not separated."""
NAMES = ("defense", "attacker")
"""Columns that name rows."""
LINE, GAP, LONGEST = 78, 2, 28
"""In letters: the width of a line, the space that a column takes besides its own, and the widest column of texts."""
NARROW = frozenset(" .,:;()[]/|-ijltfr")
"""Letters of half the width."""
NUMERIC = re.compile(r"[≥≤<−-]? ?[\d∞–]")
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "^": r"\^{}", "~": r"\textasciitilde{}", "<": r"\ensuremath{<}", ">": r"\ensuremath{>}",
}  # fmt: skip
SYMBOLS = {
    "κ": r"\kappa", "θ": r"\theta", "σ": r"\sigma", "λ": r"\lambda", "Δ": r"\Delta", "∇": r"\nabla", "≥": r"\geq",
    "≤": r"\leq", "×": r"\times", "±": r"\pm", "≈": r"\approx", "→": r"\to", "−": "-", "∞": r"\infty", "…": r"\ldots",
    "²": "^2", "½": r"\frac12", "‖": r"\|",
}  # fmt: skip


def latex(sections: Sequence[Section], title: str) -> str:
    """The first table of each grid, as a snippet for any LaTeX engine with \\usepackage{booktabs}; in as many tables as
    have columns for a line. A value that is separated from all others with letters in its column is in bold."""
    tables = [table for section in sections if section.headline or section.tables for table in _tables(section)]
    return "\n\n".join([f"% {_ascii(title)}; needs \\usepackage{{booktabs}}", *tables]) + "\n"


def _tables(section: Section) -> Iterator[str]:
    frame, below = section.headline or section.tables[0]
    columns = texts(frame)
    if section.headline:
        columns["defense"] = [re.sub(CALL, "", text) for text in columns["defense"]]
    label = f"tab:{'-'.join(re.findall(r'[A-Za-z0-9]+', _ascii(section.title)))}"
    first, *others = _parts(columns)
    caption = f"{section.title}. {opening(section.verdict)}"
    yield _table(first, rf"\caption{{{escape(caption)}}}\label{{{label}}}", escape(below))
    for part in others:
        yield _table(part, rf"\caption{{Table~\ref{{{label}}}, continued.}}", "")


def _parts(columns: Mapping[str, Sequence[str]]) -> list[dict[str, Sequence[str]]]:
    """The columns in parts that each fit into a line; each part begins with those that name its rows."""
    names = {name: columns[name] for name in NAMES if name in columns}
    parts = [dict(names)]
    for name, column in columns.items():
        if name not in names:
            if len(parts[-1]) > len(names) and sum(_width(*one) for one in [*parts[-1].items(), (name, column)]) > LINE:
                parts.append(dict(names))
            parts[-1][name] = column
    return parts


def _width(name: str, column: Sequence[str]) -> float:
    """The letters that a column takes of a line."""
    widest = max(sum(0.5 if letter in NARROW else 1 for letter in text) for text in [*column, *_lines(name, column)])
    return min(widest, LINE if name in NAMES else LONGEST) + GAP


def _table(columns: Mapping[str, Sequence[str]], caption: str, below: str) -> str:
    cells = [_bold(column) for column in columns.values()]
    heads = [r" \\ ".join(map(escape, _lines(name, column))) for name, column in columns.items()]
    heads = [rf"\shortstack{{{head}}}" if r"\\" in head else head for head in heads]
    head, *body = [f"{' & '.join(row)} \\\\" for row in [heads, *zip(*cells, strict=True)]]
    aligned = "".join(_alignment(name, column) for name, column in columns.items())
    lines = [
        r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}", caption,
        rf"\begin{{tabular}}{{@{{}}{aligned}@{{}}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", *([rf"\par\smallskip\raggedright {below}"] if below else []), r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines)


def _alignment(name: str, column: Sequence[str]) -> str:
    """How LaTeX sets a column: numbers to the right, long texts in several lines."""
    if all(map(NUMERIC.match, filter(None, column))):
        return "r"
    return rf"p{{{LONGEST / 2}em}}" if name not in NAMES and max(map(len, column), default=0) > LONGEST else "l"


def _bold(column: Sequence[str]) -> list[str]:
    """The escaped texts of a column; one that shares the first letter with no other is in bold, if others have any."""
    letters = [match[1] if (match := LETTERS.search(text)) else "" for text in column]
    is_alone = "".join(letters).count("a") == 1 and len(list(filter(None, letters))) > 1
    return [
        rf"\textbf{{{escape(text)}}}" if is_alone and one == "a" else escape(text)
        for text, one in zip(column, letters, strict=True)
    ]


def _lines(name: str, column: Sequence[str]) -> list[str]:
    """A column's name in lines that are about as wide as the column."""
    return textwrap.wrap(name, max([14, *map(len, column)]), break_on_hyphens=False) or [""]


def escape(text: str) -> str:
    """Text as LaTeX that prints the same text."""
    return _symbols("".join(SPECIAL.get(letter, letter) for letter in text))


def _symbols(text: str) -> str:
    """Text without letters that plain LaTeX does not know: mathematics as such, others without accents or by code."""
    return "".join(letter if letter.isascii() else _symbol(letter) for letter in text)


def _symbol(letter: str) -> str:
    if letter in SYMBOLS:
        return f"\\ensuremath{{{SYMBOLS[letter]}}}"
    if letter in "–—":
        return "--"
    plain = _ascii(unicodedata.normalize("NFKD", letter))  # may be a special letter: a small number sign gives #
    return "".join(SPECIAL.get(one, one) for one in plain.strip("?")) or f"U+{ord(letter):04X}"


def _ascii(text: str) -> str:
    return text.encode("ascii", "ignore").decode()
