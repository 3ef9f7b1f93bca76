"""The readable board as Markdown, LaTeX and HTML: a section a grid."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pandas as pd
from tabulate import tabulate

STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color-scheme:light dark}"
    "table{border-collapse:collapse}"
    "th,td{padding:.3em .7em;border-bottom:1px solid #8886;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child,td:nth-child(2),th:nth-child(2){text-align:left}"
    ".wide{overflow-x:auto}img{max-width:100%}"
)


@dataclass(frozen=True)
class Section:
    """One grid. tables: each with the text below it. notes: lines of a list below all. pictures: files beside."""

    title: str
    tables: Sequence[tuple[pd.DataFrame, str]]
    notes: Sequence[str]
    pictures: Sequence[str] = ()


def markdown(sections: Sequence[Section], title: str, note: str = "") -> str:
    """The board as Markdown, without HTML. note: what is to be said under the title."""
    parts = [_text(f"# {title}"), _text(note)]
    for section in sections:
        parts.append(_text(f"## {section.title}"))
        for table, below in section.tables:
            parts += [_text(tabulated(table, "github")), _text(below)]
        parts.append(_text("\n".join(f"- {note}" for note in section.notes)))
        parts += [f"![{_text(file)}]({_link(file)})" for file in section.pictures if file.endswith(".png")]
    return "\n\n".join(filter(None, parts)) + "\n"


def _text(text: str) -> str:
    """Markdown in which nothing is HTML."""
    return html.escape(text, quote=False)


def latex(sections: Sequence[Section], title: str) -> str:
    """The tables as a snippet for any LaTeX engine with \\usepackage{booktabs}."""
    parts = [f"% {_plain(title)}; needs \\usepackage{{booktabs}}"]
    for section in sections:
        parts.append(f"\\paragraph{{{escape(section.title)}}}")
        for table, below in section.tables:
            parts += ["\\medskip\\noindent", _symbols(tabulated(table, "latex_booktabs"))]
            parts += [f"\\par\\smallskip\\noindent{{\\footnotesize {escape(below)}\\par}}"] if below else []
        items = "\n".join(f"\\item {escape(note)}" for note in section.notes)
        parts += [f"{{\\footnotesize\\begin{{itemize}}\n{items}\n\\end{{itemize}}}}"] if items else []
    return "\n\n".join(parts) + "\n"


def page(sections: Sequence[Section], title: str, note: str = "") -> str:
    """The board as a page of HTML. note: what is to be said under the title."""
    title = html.escape(title)
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
    ]
    parts += [f"<p>{html.escape(note)}</p>"] if note else []
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        for table, below in section.tables:
            parts.append(f"<div class='wide'>{pd.DataFrame(_cells(table)).to_html(index=False, border=0)}</div>")
            parts += [f"<p>{html.escape(below)}</p>"] if below else []
        items = "".join(f"<li>{html.escape(note)}</li>" for note in section.notes)
        parts += [f"<ul>{items}</ul>"] if items else []
        files = section.pictures
        shown = [file for file in files if file.endswith(".svg") or file.replace(".png", ".svg") not in files]
        parts += [f"<img src='{_link(file)}' alt='{html.escape(file)}'>" for file in shown]
    return "\n".join(parts) + "\n</html>\n"


def _link(file: str) -> str:
    return quote(file, safe="+@,=")


def tabulated(table: pd.DataFrame, form: str = "github") -> str:
    """A table as `tabulate` writes it."""
    cells = _cells(table)
    if form == "github":  # where a bar would end a cell
        cells = {name.replace("|", "\\|"): [text.replace("|", "\\|") for text in of] for name, of in cells.items()}
    return tabulate(cells, headers="keys", tablefmt=form, showindex=False, disable_numparse=True)


def _cells(table: pd.DataFrame) -> dict[str, list[str]]:
    return {str(name): table[name].astype(object).fillna("").astype(str).tolist() for name in table.columns}


SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "^": r"\^{}", "~": r"\textasciitilde{}", "<": r"\ensuremath{<}", ">": r"\ensuremath{>}",
}  # fmt: skip
SYMBOLS = {
    "κ": r"\kappa", "θ": r"\theta", "σ": r"\sigma", "λ": r"\lambda", "Δ": r"\Delta", "≥": r"\geq", "≤": r"\leq",
    "×": r"\times", "±": r"\pm", "≈": r"\approx", "→": r"\to", "−": "-", "∞": r"\infty", "…": r"\ldots",
    "²": "^2", "½": r"\frac12", "‖": r"\|",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX that says the same."""
    return _symbols("".join(SPECIAL.get(letter, letter) for letter in text))


def _symbols(text: str) -> str:
    """No letter left that plain LaTeX does not know: mathematics as such, others without accents or by their code."""
    return "".join(letter if letter.isascii() else _symbol(letter) for letter in text)


def _symbol(letter: str) -> str:
    if letter in SYMBOLS:
        return f"\\ensuremath{{{SYMBOLS[letter]}}}"
    if letter in "–—":
        return "--"
    plain = _plain(unicodedata.normalize("NFKD", letter))  # which may be a special letter, as of a small number sign
    return "".join(SPECIAL.get(of, of) for of in plain.strip("?")) or f"U+{ord(letter):04X}"


def _plain(text: str) -> str:
    return text.encode("ascii", "ignore").decode() if not text.isascii() else text
