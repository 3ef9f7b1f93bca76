"""Captions: files of them, and whether a caption names a concept."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError

COLUMNS = ("caption", "text", "prompt")
"""Names that the column of captions in a table may have."""
_HEADER = re.compile(rf"(?:\w+[,;|\t])*(?:{'|'.join(COLUMNS)})(?:[,;|\t]\w+)*", re.IGNORECASE)
_NO_CAPTION = re.compile(r"[\[{]|\S+\.(?:jpe?g|png|webp|bmp|gif|tiff?)(?:#\d+)?[\s,;|]", re.IGNORECASE)


def read(path: str | None) -> tuple[str, ...]:
    """The captions in the file `path`; none if `path` is None.

    A text file has one caption a line; empty lines and lines that begin with # are left out. A table (.csv, .tsv or
    .jsonl) has them in the column `caption`, `text` or `prompt`. All are UTF-8, with or without a byte order mark.
    Raises `UsageError` if the file cannot be read, has another form, or has no captions.
    """
    if path is None:
        return ()
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        captions = [" ".join(caption.split()) for caption in _captions(text, Path(path).suffix.lower())]
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UsageError(f"cannot read the captions {path}: {error}") from None
    captions = [caption for caption in captions if caption]
    if not captions:
        raise UsageError(f"the file of captions {path} has none")
    return tuple(captions)


def _captions(text: str, suffix: str) -> Iterator[str]:
    if suffix in (".csv", ".tsv"):
        reader = csv.DictReader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ",", strict=True)
        if twice := [name for name in COLUMNS if (reader.fieldnames or []).count(name) > 1]:
            raise ValueError(f"it has two columns {twice[0]}")
        return _column(reader)
    if suffix == ".jsonl":
        return _column(json.loads(line) for line in text.split("\n") if line.strip())
    return _lines(text)


def _column(rows: Iterable[Any]) -> Iterator[str]:
    for number, row in enumerate(rows, 1):
        columns = [name for name in COLUMNS if isinstance(row, Mapping) and isinstance(row.get(name), str)]
        if len(columns) != 1 or None in row:  # csv.DictReader puts superfluous values under None
            raise ValueError(f"row {number} must have one column of {', '.join(COLUMNS)} with a text")
        yield row[columns[0]]


def _lines(text: str) -> Iterator[str]:
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if line.startswith("#"):
            continue
        if _NO_CAPTION.match(line) or (number == 1 and "," in line and _HEADER.fullmatch(line)):
            raise ValueError(
                f"line {number} is no caption, {line!r:.60}; write one a line, or name the file .csv, .tsv or .jsonl"
            )
        yield line


def names(text: str, words: str) -> bool:
    """Whether `text` names `words`: contains them as whole words, one after the other.

    Case, punctuation and underscores do not matter, nor whether one of them is the regular English plural of the other:
    "two Fire-Hydrants" names "fire hydrant", but "a carpet" does not name "car".
    """
    given, sought = _words(text), _words(words)
    return any(_alike(given[i : i + len(sought)], sought) for i in range(len(given) - len(sought) + 1))


def same(words: str, others: str) -> bool:
    """Whether two concepts with these words are one; the words are compared as in `names`."""
    return _alike(_words(words), _words(others))


@functools.lru_cache(100_000)
def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


def _alike(words: Sequence[str], others: Sequence[str]) -> bool:
    return len(words) == len(others) and all(map(_alike_word, words, others))


@functools.lru_cache(100_000)
def _alike_word(word: str, other: str) -> bool:
    return word == other or word in _plurals(other) or other in _plurals(word)


def _plurals(word: str) -> set[str]:
    plurals = {f"{word}s"}
    if re.search(r"(?:[osxz]|[cs]h)$", word):
        plurals.add(f"{word}es")
    if re.search(r"[^aeiou]y$", word):
        plurals.add(f"{word[:-1]}ies")
    return plurals
