"""Texts use the words of the field, one word for one thing, and plain English that needs no second reading.

The words and their meanings are in docs/pages/glossary.md.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = (
    "harness/**/*.py",
    "harness/**/*.pyi",
    "harness/site/templates/*.html",
    "harness/kit/templates/*",
    "defenses/*.py",
    "attackers/*.py",
    "suites/**/*.yaml",
    "docs/**/*.md",
    "docs/**/*.py",
    "results/*/README.md",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
)
WORDS = {
    "holes?": "failed cell",
    "personas?": "subject",
    "judg(e|es|ed|ing|ment)": "concept classifier (of pictures), rank or measure (of models)",
    "(loss[ _]gap|gap of the loss)s?": "excess loss",
    "kept rates?": "retention",
    r"(?<!κ\s)(?<!kappa\s)polic(y|ies)(?!:)": "κ policy, or variant if it is no choice of κ",
    "readings|(a|its|each|one) reading": "run cost, or measured value",
}
"""Words that the field's own words replace: pattern of the whole word, and what to say instead."""
PHRASES = {
    "what there is": "the name of the thing",
    "(is|are|was|were|be|been) (told|said)": "gets, receives, is distinguished, is reported, …",
    "so many (first )?\\w+s": "a number of …, or the number",
    "takes? no thought": "ignores, or the name of what is ignored",
    "stands? (beside|beneath|apart|alone)": "is next to, is in, is listed separately",
    "has got (somewhere|there)": "has made progress, with its measure",
    "its ecosystem('s format| does)": "the name of the library or format",
    "(at|in) hand": "available, in progress",
    "be had": "be loaded, be found",
    "all the while": "at the same time",
    "(begun|made|written) anew": "restarted, made again",
    "for ever": "without end",
    "what it (tells|says|gives|leaves|takes|shows)": "the name of the value",
    "a (row|column|line|map|page|file|cell|picture) an? (?!time)\\w+": "a … for each …",
    "(these|the) very": "these",
    "so it is with|as does|nor does it": "a sentence of its own",
    "thereof|whereof|wherein|whereby|whoever|whatsoever": "plain words",
}
"""Riddles and inversions: pattern of the whole phrase, and what to say instead."""
NAMES = {"of", "told", "said", "stood", "marks"}
"""Words that are no names of parameters and variables: a name is a noun of the field."""
EXCEPTIONS = {
    "harness/submission/old_forms.py": "converts submissions of format 1 and must name its words",
    "harness/diffusion/concepts.py": "tells in an error which words of concept format 1 to replace",
}
"""Files that may use the former words, with the reason."""

PATTERNS = {
    re.compile(rf"(?<![\w.`/-])(?:{pattern})(?![\w=(/-]|\.\w)".replace(" ", r"\s+"), re.IGNORECASE): plain
    for pattern, plain in {**WORDS, **PHRASES}.items()
}
ANY = re.compile("|".join(pattern.pattern for pattern in PATTERNS), re.IGNORECASE)


def faults(text: str, where: str, line: int = 1) -> Iterator[str]:
    """A line for each word or phrase in a text that should be another. where, line: place of the text's first line."""
    if ANY.search(text):
        for pattern, plain in PATTERNS.items():
            for match in pattern.finditer(text):
                at = line + text.count("\n", 0, match.start())
                yield f"{where}:{at}: '{' '.join(match[0].split())}'; say: {plain}"


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings, other strings and comments of a Python file, the whole text of another, with their lines."""
    content = path.read_text(encoding="utf-8")
    if path.suffix not in (".py", ".pyi"):
        yield 1, content
        return
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type in kinds:
            yield token.start[0], token.string


def names(path: Path) -> Iterator[tuple[int, str]]:
    """The names of parameters and variables in a Python file, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name


def files() -> list[Path]:
    return sorted({path for pattern in TEXTS for path in ROOT.glob(pattern) if path.is_file()})


def test_texts_use_the_words_of_the_field() -> None:
    """In docstrings, comments, messages, help, documentation and suites."""
    found = [
        fault
        for path in files()
        if (where := path.relative_to(ROOT).as_posix()) not in EXCEPTIONS
        for line, text in texts(path)
        for fault in faults(text, where, line)
    ]
    assert not found, "\n".join(found)


def test_names_are_nouns_of_the_field() -> None:
    """Parameters and variables of the package, and the names of tests."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: '{name}' is no name; say what it holds"
        for path in files()
        if path.suffix == ".py"
        for line, name in names(path)
        if name in NAMES
    ]
    for path in ROOT.glob("tests/**/test_*.py"):
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := re.match(r" *def test_(\w+)", text):
                found += faults(match[1].replace("_", " "), str(path.relative_to(ROOT)), line)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a hole in the table", "hole"),
        ("the\n    judge sees it", "judge"),
        ("under another policy", "policy"),
        ("the defense is\n  told the attacker", "is told"),
        ("a row a defense", "a row a defense"),
        ("a row an attacker", "a row an attacker"),
    ],
)
def test_a_replaced_word_is_found_with_its_line(text: str, word: str) -> None:
    (fault,) = faults(text, "page.md", 3)
    assert fault.startswith(f"page.md:{3 + text.partition(word.split()[0])[0].count(chr(10))}: '{word}'; say: ")


@pytest.mark.parametrize(
    "text",
    [
        "the whole table",
        "under a κ policy `floor`",
        "policy: the κ policy",
        "reading the file",
        "a row of a table",
        "`--judge` was an option",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert not list(faults(text, "page.md"))
