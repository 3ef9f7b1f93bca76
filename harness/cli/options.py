"""Arguments and options that several commands share, and the selection options, made from `Selection`."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from harness.errors import ImmuneBenchError
from harness.files import user_path
from harness.selection import Selection

SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or a YAML file.")]
Suites = Annotated[list[str], typer.Argument(metavar="SUITE", help="Only these suites' artifacts (default: all).")]
Plugins = Annotated[
    list[Path],
    typer.Option(
        "--plugin", parser=user_path, metavar="FILE", help="Add the plugins of a Python file (repeat for several)."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Local processes (default: one for each GPU, else core).")
]
Timeout = Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="Seconds after which a job fails.")]


class Refusals(list[ImmuneBenchError]):
    """Errors of submissions that cannot be read; a call prints one and keeps it."""

    def __call__(self, error: ImmuneBenchError) -> None:
        from harness.execution.failure import line

        self.append(error)
        print(f"immunebench: {line(error)}", file=sys.stderr)


FLAGS = {
    "grids": ("--grid", "NAME"),
    "tasks": ("--task", "LABEL"),
    "defenses": ("--defense", "NAME"),
    "attackers": ("--attacker", "NAME"),
    "seeds": ("--seeds", "N"),
    "settings": ("--set", "PATH=VALUE"),
    "plugins": ("--plugin", "FILE"),
    "base": ("--base", "NAME[=DIR]"),
    "checkpoints": ("--checkpoint", "[NAME=]DIR"),
}
"""The option for each field of `Selection`, and the name of its value."""


class Command(TyperCommand):
    """A command whose help names each argument as its metavar does; typer adds braces and a type."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The parts of the usage line."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def get_params(self, ctx: Any) -> list[Any]:
        """The arguments and options."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None
        return params


def selection_options(*fields: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a `Selection`, which it gets as its argument `selection`.

    fields: the fields of `Selection` that have an option; by default all.
    """
    options = [_option(name) for name in fields or FLAGS]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_selection(**arguments: Any) -> None:
            chosen = {option.name: arguments.pop(option.name) for option in options}
            command(**arguments, selection=Selection.of(**chosen))

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "selection"]
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters = [*keywords, *options]
        # typer reads both
        with_selection.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_selection.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_selection

    return decorate


def _option(name: str) -> inspect.Parameter:
    """The option for a field of `Selection`, as a parameter that typer reads."""
    info = Selection.model_fields[name]
    repeatable = get_origin(info.annotation) is tuple
    kind: Any = info.annotation
    if repeatable:
        kind = list[Path] if Path in get_args(kind) else list[str]
    lowest = next((limit.ge for limit in info.metadata if hasattr(limit, "ge")), None)
    text = f"{str(info.description).rstrip('.')}{' (repeat for several)' if repeatable else ''}."
    flag, metavar = FLAGS[name]
    option = typer.Option(flag, min=lowest, metavar=metavar, help=text)
    default: Any = [] if repeatable else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
