"""A board's tables as LaTeX in plain ASCII."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from harness.leaderboard.markdown import texts
from harness.leaderboard.section import Section

CALL = r": \w+\(.*$"
"""The call of a row of the first table, which a paper's table has no room for."""
LETTERS = re.compile(r" ([a-z]+)$")
"""The letters at the end of a value: rows that share one are not separated."""
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
    """The first table of each grid, as a snippet for any LaTeX engine with \\usepackage{booktabs}; a defense that is
    separated from another one, and from none before it, is in bold."""
    tables = [_table(section) for section in sections if section.headline or section.tables]
    return "\n\n".join([f"% {_ascii(title)}; needs \\usepackage{{booktabs}}", *tables]) + "\n"


def _table(section: Section) -> str:
    frame, below = section.headline or section.tables[0]
    columns = texts(frame)
    if section.headline:
        columns["defense"] = [re.sub(CALL, "", text) for text in columns["defense"]]
    aligned = "".join("r" if all(map(NUMERIC.match, filter(None, column))) else "l" for column in columns.values())
    cells = [_bold(column) for column in columns.values()]
    head, *body = [f"{' & '.join(row)} \\\\" for row in [map(_heading, columns), *zip(*cells, strict=True)]]
    label = "-".join(re.findall(r"[A-Za-z0-9]+", _ascii(section.title)))
    lines = [
        r"\begin{table}", r"\centering\footnotesize", rf"\caption{{{escape(f'{section.title}. {section.verdict}')}}}",
        rf"\label{{tab:{label}}}", rf"\begin{{tabular}}{{@{{}}{aligned}@{{}}}}", r"\toprule", head, r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}", rf"\par\smallskip\raggedright {escape(below)}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines)


def _bold(column: Sequence[str]) -> list[str]:
    """The escaped texts of a column; those with the letter of the best rows are in bold, if others have none."""
    letters = [match[1] if (match := LETTERS.search(text)) else "" for text in column]
    separated = any("a" not in one for one in letters if one)
    return [
        rf"\textbf{{{escape(text)}}}" if separated and "a" in one else escape(text)
        for text, one in zip(column, letters, strict=True)
    ]


def _heading(name: str) -> str:
    """A column's name, in two lines if it is long."""
    parts = re.split(r"(?<=:) | (?=\[|within)", str(name), maxsplit=1) if len(str(name)) > 14 else [str(name)]
    return rf"\shortstack{{{escape(parts[0])} \\ {escape(parts[1])}}}" if len(parts) > 1 else escape(parts[0])


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
