"""Base of models of plain data, and types of texts in tables, file names and terminals, with their characters."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from harness.errors import nearest

LARGEST = 2**53
"""Largest integer of a field: a float, as which JSON and pandas may read it, has no integer beyond it exactly."""
LARGEST_FLOAT = 1e100
"""Largest absolute value of a field that is a float, so that its square is finite."""
LONGEST_STEM = 200
"""Largest length of the beginning of a file name, in bytes; with its end a name has at most 255."""


@dataclass(frozen=True)
class Says:
    """The message of a type instead of pydantic's."""

    message: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="text", custom_error_message=self.message
        )


def file_name(name: str) -> str:
    """`name` if every system takes it as the beginning of a file name; raises `ValueError` for another one."""
    if name[-1] in " ." or re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE):
        raise ValueError(f"some systems take no file called '{name}': choose another name")
    if len(name.encode()) > 100:
        raise ValueError(f"'{name}' is longer than 100 bytes: choose a shorter name")
    return name


_HOMOGLYPHS = str.maketrans(
    "аеорсухіјѕһԁԛԝкмтвн" + "αβγεικνορτυχω" + "ɑɡı",
    "aeopcyxijshdqwkmtbh" + "abyeikvoptuxw" + "agi",
)
"""Letters of other alphabets that look like Latin ones, in lower case: a part of Unicode's confusables (UTS 39)."""
_IGNORABLE = re.compile("[\u034f\u17b4\u17b5\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Marks that are not shown: Unicode's Default_Ignorable_Code_Point, without the control characters."""
_ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK", "KATAKANA-HIRAGANA": "CJK", "IDEOGRAPHIC": "CJK"}
"""Scripts that are written together."""


def skeleton(text: str) -> str:
    """What `text` looks like: most readers see no difference between two texts with one skeleton (after UTS 39)."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return "".join(letter for letter in plain if unicodedata.category(letter)[0] not in "MC").translate(_HOMOGLYPHS)


def check_distinct(labels: Collection[str], kind: str) -> None:
    """Raise `ValueError` if two of the `labels` look alike. kind: what they are labels of."""
    known: dict[str, str] = {}
    for label in labels:
        other = known.setdefault(skeleton(label), label)
        if other != label:
            raise ValueError(f"two {kind}s have labels that look alike, {other!a} and {label!a}: rename one")


def readable(text: str) -> str:
    """`text` if all its letters can be seen and each word is of one script; raises `ValueError` for another one."""
    if unicodedata.normalize("NFKC", text) != text:
        raise ValueError(f"{text!a} has letters in an unusual form: write {unicodedata.normalize('NFKC', text)!a}")
    for before, letter in pairwise(f" {text}"):
        kind = unicodedata.category(letter)[0]
        if kind == "C" or "FILLER" in unicodedata.name(letter, "") or _IGNORABLE.match(letter):
            raise ValueError(f"{text!a} has the invisible character U+{ord(letter):04X}: take it out")
        if kind == "M" and unicodedata.category(before)[0] not in "LMN":
            raise ValueError(f"{text!a} has the mark U+{ord(letter):04X} without a letter before it: take it out")
    for word in re.findall(r"[^\W\d_]+", text):
        scripts = {unicodedata.name(letter, "?").partition(" ")[0] for letter in word}
        if len({_ONE_SCRIPT.get(script, script) for script in scripts}) > 1:
            raise ValueError(f"{text!a} mixes letters of {' and '.join(sorted(scripts))} in a word: use one script")
    return text


Name = Annotated[
    str,
    Field(pattern=r"^\w[\w .,+=()@-]*$"),
    Says("must be a text of letters, digits, spaces and .,+=()@_-, and begin with a letter or digit"),
    AfterValidator(file_name),
    AfterValidator(readable),
]
"""Name of a suite or grid, which also names folders and pictures."""
Label = Annotated[
    str,
    Field(pattern=r"^\w([\w .,:;+=()@'°/-]*[\w.,:;+=()@'°/-])?$", max_length=300),
    Says(
        "must be a text of at most 300 letters, digits, spaces and .,:;+=()@'°/_-, begin with a letter or digit and "
        "not end with a space"
    ),
    AfterValidator(readable),
]
"""Label of a row, task, metric or coordinate."""
Text = Annotated[
    str,
    Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$", max_length=20000),
    Says("must be one line of text, without control characters"),
]
"""One line without control characters."""
Number = Annotated[float, Field(ge=-sys.float_info.max, le=sys.float_info.max)]
"""A measured number, of any finite size."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, in hexadecimal")]


def file_stem(*labels: str) -> str:
    """The beginning of the name of a file of the things called `labels`."""
    return re.sub("[/:]", "_", "__".join(labels))


def strict(schema: Any, quoted: bool = False) -> Any:
    """A pydantic core schema, and all in it, in which a number is a number: no boolean is one, no float or text is an
    integer, an integer is at most `LARGEST`, and a float at most `LARGEST_FLOAT`. quoted: whether a decimal number as
    text is a float, and as a key of a mapping an integer, because keys of YAML and JSON are text; no other text is a
    number."""
    if isinstance(schema, list | tuple):
        return type(schema)(strict(part, quoted) for part in schema)
    if not isinstance(schema, dict):
        return schema
    inner = {name: part if name in _NO_SCHEMAS else strict(part, quoted) for name, part in schema.items()}
    kind = schema.get("type", "")
    whole = {**_STRICT.get(kind, {}), **inner}
    if quoted and kind == "dict" and schema.get("keys_schema", {}).get("type") == "int":
        whole["keys_schema"] = core_schema.no_info_before_validator_function(_integer, whole["keys_schema"])
    return core_schema.no_info_before_validator_function(_decimal, whole) if quoted and kind == "float" else whole


def _decimal(value: Any) -> Any:
    decimal = r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
    return float(value) if isinstance(value, str) and re.fullmatch(decimal, value) else value


def _integer(key: Any) -> Any:
    return int(key) if isinstance(key, str) and re.fullmatch(r"[+-]?(0|[1-9]\d{0,18})", key, re.ASCII) else key


_NO_SCHEMAS = ("metadata", "default", "expected", "serialization")
_STRICT: Mapping[str, Mapping[str, Any]] = {
    "int": {"strict": True, "ge": -LARGEST, "le": LARGEST},
    "float": {"strict": True, "allow_inf_nan": False, "ge": -LARGEST_FLOAT, "le": LARGEST_FLOAT},
    "bool": {"strict": True},
}


class FrozenModel(BaseModel):
    """A pydantic model that refuses unknown fields, cannot be changed and reads numbers strictly (see `strict`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = strict(handler(source))
        return schema

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping) and cls.model_config.get("extra") == "forbid":
            known = list(cls.model_fields)
            for name in fields:
                if name not in known:
                    raise ValueError(f"unknown key '{name}'; {nearest(str(name), known)}")
        return fields
