"""A board's tables as LaTeX in plain ASCII."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from tabulate import tabulate

from harness.leaderboard.markdown import texts
from harness.leaderboard.section import Section

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
    """The tables as a snippet for any LaTeX engine with \\usepackage{booktabs}."""
    parts = [f"% {_ascii(title)}; needs \\usepackage{{booktabs}}"]
    for section in sections:
        parts.append(f"\\paragraph{{{escape(section.title)}}}")
        parts += [escape(section.verdict)] if section.verdict else []
        first = [section.headline] if section.headline else []
        for table, below in [*first, *(detail[1:] for detail in section.details), *section.tables]:
            rows = tabulate(
                texts(table), headers="keys", tablefmt="latex_booktabs", showindex=False, disable_numparse=True
            )
            parts += ["\\medskip\\noindent", _symbols(rows)]
            parts += [f"\\par\\smallskip\\noindent{{\\footnotesize {escape(below)}\\par}}"] if below else []
        items = "\n".join(f"\\item {escape(note)}" for note in section.notes)
        parts += [f"{{\\footnotesize\\begin{{itemize}}\n{items}\n\\end{{itemize}}}}"] if items else []
    return "\n\n".join(parts) + "\n"


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
