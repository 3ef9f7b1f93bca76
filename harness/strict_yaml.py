"""YAML as people mean it: plain JSON values, and each key once.

Only `true`, `false`, `null`, decimal numbers and what YAML 1.2 reads as floats are no text: `yes`, `010`, `1:30` and
dates are text. A key is the text that is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.bounded import read_bytes
from harness.errors import UsageError

LARGEST = 4 * 2**20
"""Largest length of a file, in bytes."""
NODES = 10**5
"""Largest number of parts of a text; those of an alias count wherever it stands."""
_MERGE = "tag:yaml.org,2002:merge"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),
}
"""By tag, the text of a scalar that is more than text, and its first characters."""


class Content(NamedTuple):
    """The value of a YAML text. lines: the line of each part, by its keys and places in lists."""

    value: Any
    lines: dict[tuple[str | int, ...], int]

    def line(self, *path: str | int) -> int | None:
        """The line of the part at `path`, or of the nearest part that contains it; None if it is the whole text."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str | None] = []
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        tag, anchor = getattr(event, "tag", None), event.anchor
        if tag not in (None, "!", self.DEFAULT_SCALAR_TAG):
            raise _refusal(f"the tag {tag} is not read here", event)
        if isinstance(event, yaml.AliasEvent) and anchor in self._open:
            raise _refusal(f"'{anchor}' contains itself", event)
        self._open.append(anchor)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._open.pop()
        if isinstance(node, yaml.CollectionNode) and id(node) not in self._sizes:
            parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(part), 1) for part in parts)
            if self._sizes[id(node)] > NODES:
                raise _refusal(f"more than {NODES} parts, with those of aliases", event)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("a key must be text", key)
            if key.value in lines and key.tag != _MERGE:
                raise _refusal(f"the key '{key.value}' is given twice, first in line {lines[key.value]}", key)
            lines[key.value] = key.start_mark.line + 1
            if key.tag != _MERGE:
                key.tag = self.DEFAULT_SCALAR_TAG
        return node


def _refusal(problem: str, place: Any) -> yaml.MarkedYAMLError:
    """The error of valid YAML that is refused. place: an event or a node."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


for _name, (_pattern, _first) in _SCALARS.items():
    for _character in [*_first, *([""] if _name == "null" else [])]:
        _Loader.yaml_implicit_resolvers.setdefault(_character, []).append(
            (f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"))
        )


def parse(text: str, where: str) -> Content:
    """The value of the YAML document `text`; raises `UsageError` if it is invalid. where: place to name in the
    error."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        syntax = "" if type(error) is yaml.MarkedYAMLError else "no YAML: "
        reason = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise UsageError(f"{where}{line}: {syntax}{' '.join(reason.split())}") from None
    except RecursionError:
        raise UsageError(f"{where}: no YAML that is read here: its lists and mappings are nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of more than 4300 digits
        raise UsageError(f"{where}: no YAML: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return Content(value, dict(_lines(node, ())))


def read(path: Path) -> Content:
    """The value of the YAML file `path`; raises `UsageError` if it cannot be read or is invalid."""
    try:
        text = read_bytes(path, LARGEST).decode()
    except (OSError, ValueError) as error:  # ValueError: too long, or no UTF-8
        raise UsageError(f"cannot read {path}: {error}") from None
    return parse(text, str(path))


def _lines(node: yaml.Node | None, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """The line of each part of `node`, which is at `path`."""
    if isinstance(node, yaml.MappingNode):
        parts = [(key.value, key.start_mark, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        parts = [(place, value.start_mark, value) for place, value in enumerate(node.value)]
    else:
        parts = []
    for name, mark, value in parts:
        yield (*path, name), mark.line + 1
        yield from _lines(value, (*path, name))
