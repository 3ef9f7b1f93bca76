"""The fields of plugins and of suite files as text: described for the site and the reference, and set on the command
line."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from harness import strict_yaml
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


def parse(text: str, field: FieldInfo, where: str) -> Any:
    """The value of a plugin's field from its text, for `--set`: the text itself for a field of text or of a choice of
    texts, else the value of the text as YAML.

    text: the text. field: the field. where: place to name in the error. Raises `UsageError` for text that is no YAML.
    """
    kinds = [get_origin(kind) or kind for kind in _alternatives(field.annotation)]
    if str in kinds and set(kinds) <= {str, NoneType} and not (NoneType in kinds and text == "null"):
        return text
    return strict_yaml.parse(text, where).value


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union, or the one type that is given."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin in (Union, UnionType):
        return [kind for argument in arguments for kind in _alternatives(argument)]
    if origin is Literal:
        return [type(choice) for choice in arguments]
    return [annotation]


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
