"""The public faces of the harness are documented: every class, function, method and property has a docstring, which
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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

FACES = ("harness", "harness.kit", "harness.deep", "harness.probe", "harness.diffusion")


def _public() -> dict[str, Any]:
    """The functions and classes of the public faces that the harness itself defines, by full name."""
    objects = {}
    for face in FACES:
        module = importlib.import_module(face)
        for name in module.__all__:
            item = getattr(module, name)
            is_own = getattr(item, "__module__", "").startswith("harness.")
            if is_own and (inspect.isclass(item) or inspect.isfunction(item)):
                objects[f"{item.__module__}.{item.__qualname__}"] = item
    return objects


def _parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(inspect.unwrap(function)).parameters if name not in ("self", "cls")]


def _unnamed(parameters: Iterable[str], text: str) -> list[str]:
    return [name for name in parameters if not re.search(rf"\b{name}\b", text)]


def _undocumented_fields(cls: type) -> list[str]:
    """The fields of a dataclass or pydantic model that the class itself declares, without those that have a description
    or a string below them."""
    own = inspect.get_annotations(cls)
    models = getattr(cls, "__pydantic_fields__", {})
    names = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else list(models)
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    documented = {
        first.target.id
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign) and isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
    }
    described = {name for name, field in models.items() if field.description}
    return [name for name in names if name in own and name not in documented | described]


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class itself defines."""
    for name, member in vars(cls).items():
        match member:
            case _ if name.startswith("_") or name in inspect.get_annotations(cls):
                pass
            case classmethod() | staticmethod():
                yield name, member.__func__
            case property():
                yield name, member.fget
            case functools.cached_property():
                yield name, member.func
            case _ if inspect.isfunction(member):
                yield name, member


def _problems(name: str, item: Any) -> Iterator[str]:
    """What the docstrings of a function or class lack, a line each."""
    text = inspect.cleandoc(item.__doc__ or "")
    if not text or text.startswith(f"{item.__name__}("):  # a dataclass without a docstring gets its signature
        yield f"{name} has no docstring"
        return
    if inspect.isfunction(item):
        parameters = _parameters(item)
    elif dataclasses.is_dataclass(item) or hasattr(item, "__pydantic_fields__"):
        parameters = _undocumented_fields(item)
    else:
        parameters = _parameters(vars(item)["__init__"]) if "__init__" in vars(item) else []
    if unnamed := _unnamed(parameters, text):
        yield f"{name}: the docstring does not name {', '.join(unnamed)}"
    for method, function in _methods(item) if inspect.isclass(item) else ():
        if any(getattr(vars(base).get(method), "__doc__", None) for base in item.__mro__[1:]):
            continue  # it overrides a documented method
        yield from _problems(f"{name}.{method}", function)


PUBLIC = _public()


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_name_every_parameter(name: str) -> None:
    problems = list(_problems(name, PUBLIC[name]))
    assert not problems, "\n".join(problems)


@dataclasses.dataclass
class _Half:
    """Half of it. width: in pixels."""

    width: int
    height: int

    def scale(self, factor: float) -> float:
        """Scale it."""
        return factor

    def load(self, path: Path) -> None:
        pass


def test_missing_names_and_docstrings_are_found() -> None:
    assert list(_problems("Half", _Half)) == [
        "Half: the docstring does not name height",
        "Half.scale: the docstring does not name factor",
        "Half.load has no docstring",
    ]
