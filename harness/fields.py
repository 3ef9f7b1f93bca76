"""The fields of plugins and of suite files as text, for the site and the reference."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from harness.plugin import Plugin


class FieldText(NamedTuple):
    """One field as text. default: empty if the field is required. bounds: limits of a number or a length."""

    name: str
    type: str
    default: str
    bounds: str
    description: str


def fields(model: type[Plugin] | type[BaseModel]) -> list[FieldText]:
    """The fields of `model`, a plugin class or the class of a part of a suite file, in order."""
    return [
        FieldText(name, _type_name(info.annotation), _default(info), _bounds(info), info.description or "")
        for name, info in model.__pydantic_fields__.items()
    ]


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if origin is Annotated:
        return _type_name(arguments[0])
    inner = [_type_name(argument) for argument in arguments if argument is not ...]
    if origin in (Union, UnionType):
        return " | ".join(inner)
    name = "None" if annotation is NoneType else getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(inner)}]" if inner else name


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return repr(info.get_default(call_default_factory=True, validated_data={}))
    return "" if info.default is PydanticUndefined else repr(info.default)


def _bounds(info: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "at least", "max_length": "at most"}
    limits = [(limit, side) for limit in info.metadata for side in signs if getattr(limit, side, None) is not None]
    return ", ".join(f"{signs[side]} {getattr(limit, side)}" for limit, side in limits)
