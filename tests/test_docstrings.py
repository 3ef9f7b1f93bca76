"""The public faces of the harness are documented: every class, function, method and property has a docstring, and it
names each parameter or field."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

FACES = ("harness", "harness.kit", "harness.probe", "harness.diffusion")
LEFT_OUT = {"self", "cls", "folders", "out"}
"""Parameters that need no word: `folders` and `out` mean the same in every `Stage.run`."""


def _objects() -> dict[str, Any]:
    """The functions and classes of the public faces that the harness defines, by module and name."""
    objects = {}
    for face in FACES:
        module = importlib.import_module(face)
        for name in module.__all__:
            item = getattr(module, name)
            is_own = getattr(item, "__module__", "").startswith("harness.")
            if is_own and (inspect.isclass(item) or inspect.isfunction(item)):
                objects[f"{item.__module__}.{item.__qualname__}"] = item
    return objects


@functools.cache
def _attributes_with_docstring(cls: type) -> set[str]:
    """The annotated attributes of a class that a string stands below."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    return {
        first.target.id
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign) and isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
    }


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class itself defines, and those of its bases that have no docstring."""
    for name, member in vars(cls).items():
        if not name.startswith("_"):
            match member:
                case classmethod() | staticmethod():
                    yield name, member.__func__
                case property() | functools.cached_property():
                    yield name, member.fget if isinstance(member, property) else member.func
                case _ if inspect.isfunction(member):
                    yield name, member


def _overrides_documented(cls: type, name: str) -> bool:
    return any(getattr(vars(base).get(name), "__doc__", None) for base in cls.__mro__[1:])


def _unnamed(parameters: list[str], text: str) -> list[str]:
    return [name for name in parameters if name not in LEFT_OUT and not re.search(rf"\b{name}\b", text)]


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(inspect.unwrap(function)).parameters)


def _fields(cls: type) -> dict[str, str]:
    """The fields of a dataclass or pydantic model that the class itself declares, with their descriptions."""
    own = inspect.get_annotations(cls)
    described = getattr(cls, "__pydantic_fields__", {})
    names = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else [*described]
    return {name: getattr(described.get(name), "description", "") or "" for name in names if name in own}


def _problems(name: str, item: Any) -> Iterator[str]:
    text = item.__doc__ or ""
    if inspect.isfunction(item):
        if not text or _unnamed(_parameters(item), text):
            yield f"{name} names no {', '.join(_unnamed(_parameters(item), text)) or 'purpose'}"
        return
    if not text or text.startswith(f"{item.__name__}("):  # a dataclass's own
        yield f"{name} has no docstring"
    documented = _attributes_with_docstring(item)
    if fields := [field for field, description in _fields(item).items() if not description and field not in documented]:
        if unnamed := _unnamed(fields, text):
            yield f"{name} names no {', '.join(unnamed)}"
    elif "__init__" in vars(item) and not dataclasses.is_dataclass(item):
        both = text + (vars(item)["__init__"].__doc__ or "")
        if unnamed := _unnamed(_parameters(vars(item)["__init__"]), both):
            yield f"{name} names no {', '.join(unnamed)}"
    for member, function in _members(item):
        parameters = [parameter for parameter in _parameters(function) if parameter not in LEFT_OUT]
        own = function.__doc__ or ""
        if not own and not _overrides_documented(item, member):
            yield f"{name}.{member} has no docstring"
        elif unnamed := [] if _overrides_documented(item, member) else _unnamed(parameters, own):
            yield f"{name}.{member} names no {', '.join(unnamed)}"


OBJECTS = _objects()


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_names_every_parameter(name: str) -> None:
    assert not list(_problems(name, OBJECTS[name]))
