"""The conformance kit: what `immunebench check` tries on a plugin, and authors in their own tests:

    from harness.kit import checks

    @pytest.mark.parametrize("check", checks(MyAttack), ids=str)
    def test_conforms(check):
        check()

Each check says in words what is wrong. Those that run the plugin do so on a tiny task of its track.
"""

from __future__ import annotations

import ast
import inspect
import math
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch

from harness.errors import UsageError
from harness.kit.examine import Examination, same
from harness.plugin import Plugin
from harness.registry import installed
from harness.source import read_class

__all__ = ["Check", "Fault", "checks"]

_SOURCE = re.compile(r"\b(1[6-9]|20)\d\d\b|arxiv|doi\.org|https?://|\bcontrol\b", re.IGNORECASE)
_DEVICES = re.compile(r"^(cuda|cpu|mps)(:\d+)?$")


class Fault(AssertionError):
    """What is wrong with a plugin, in words."""


@dataclass(frozen=True)
class Check:
    """One check of one plugin; calling it raises `Fault` if the plugin fails it."""

    name: str
    about: str
    run: Callable[[Examination], None] = field(repr=False)
    on: Examination = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Raises `Fault`."""
        self.run(self.on)


def checks(
    plugin: type[Plugin], preset: str | None = None, files: Sequence[str | Path] = (), **settings: Any
) -> list[Check]:
    """All checks of a plugin class, with its defaults, one of its presets, or other settings; of each track if it
    belongs to all. files: plugin files, one of which may hold its track. Raises `UsageError` if there is no such
    preset or track."""
    if preset is not None and preset not in plugin.presets:
        raise UsageError(f"{plugin.__name__} has no preset '{preset}'; it has: {', '.join(plugin.presets) or 'none'}")
    built = plugin(**{**(plugin.presets[preset] if preset else {}), **settings})
    tracks = [entry.load()() for entry in installed().with_files(files).all("track")]
    fitting = [track for track in tracks if plugin.track in (track.name, "any")]
    if not fitting:
        raise UsageError(
            f"{plugin.__name__} is of track '{plugin.track}'; there are: {', '.join(t.name for t in tracks)}"
        )
    found = []
    for number, track in enumerate(fitting):
        examination = Examination(built, track)
        for name, check in _CHECKS.items():
            if name in _OF_SOURCE and number:
                continue  # the same on every track
            place = "" if name in _OF_SOURCE or len(fitting) == 1 else f"[{track.name}]"
            found.append(Check(name + place, inspect.getdoc(check) or "", check, examination))
    return found


_CHECKS: dict[str, Callable[[Examination], None]] = {}
_OF_SOURCE: set[str] = set()


def _of_source(check: Callable[[Examination], None]) -> Callable[[Examination], None]:
    """A check that reads the plugin and does not run it."""
    name = check.__name__.lstrip("_")
    _CHECKS[name] = check
    _OF_SOURCE.add(name)
    return check


def _of_run(check: Callable[[Examination], None]) -> Callable[[Examination], None]:
    """A check of what it does; passed over if it does not run, which a check of its own tells."""

    def where_it_runs(on: Examination) -> None:
        if on.reason is None:
            check(on)

    where_it_runs.__doc__ = check.__doc__
    _CHECKS[check.__name__.lstrip("_")] = where_it_runs
    return check


@_of_source
def _fields(on: Examination) -> None:
    """Each field has a description, each number a bound."""
    for name, info in on.cls.__pydantic_fields__.items():
        if not info.description:
            raise Fault(f"field '{name}' has no description: {name}: … = Field(…, description=\"what it is\")")
        kinds = set(get_args(info.annotation)) or {info.annotation}
        bounded = any(hasattr(limit, side) for limit in info.metadata for side in ("gt", "ge", "lt", "le"))
        if kinds & {int, float} and not bounded:
            raise Fault(f"field '{name}' is a number without a bound: give it gt, ge, lt or le")


@_of_source
def _docstring(on: Examination) -> None:
    """The docstring says where the method comes from."""
    doc = read_class(Path(inspect.getfile(on.cls)), on.cls.__name__).get("doc") or ""
    if not doc:
        raise Fault("the class has no docstring; its first line is what `immunebench list` shows")
    module = inspect.getmodule(on.cls)
    if not _SOURCE.search(f"{doc} {getattr(module, '__doc__', '')}"):
        raise Fault("the docstring names no source: give the paper with its year, a link, or say that it is a control")


@_of_source
def _listing(on: Examination) -> None:
    """`immunebench list` can read the class from its source, without importing it."""
    about = read_class(Path(inspect.getfile(on.cls)), on.cls.__name__)
    if not about or inspect.cleandoc(about["doc"]) != inspect.getdoc(on.cls):
        raise Fault("the class cannot be read from its source: define it by a `class` statement with a plain docstring")
    if about.get("track", "") != on.cls.track:
        raise Fault('its track cannot be read from its source: inherit from its track\'s base, or write `track = "…"`')


@_of_source
def _pickles(on: Examination) -> None:
    """It can be sent to a worker."""
    try:
        same = pickle.loads(pickle.dumps(on.plugin)) == on.plugin  # our own bytes of a moment ago
    except Exception as error:
        raise Fault(f"it cannot be pickled: {error}; keep in its fields what plain data can say") from None
    if not same:
        raise Fault("pickled and unpickled it is not equal to itself: do not change fields after it is made")


@_of_source
def _device(on: Examination) -> None:
    """No device is written into the source."""
    for node in ast.walk(ast.parse(Path(inspect.getfile(on.cls)).read_text(encoding="utf-8"))):
        match node:
            case ast.Constant(value=str(text)) if _DEVICES.match(text):
                raise Fault(f"line {node.lineno} names the device '{text}': take that of the tensors you are given")
            case ast.Attribute(attr=("cuda" | "cpu") as name) if not isinstance(node.value, ast.Name) or (
                node.value.id != "torch"
            ):
                raise Fault(
                    f"line {node.lineno} moves to a device by .{name}(): take that of the tensors you are given"
                )


def _runs(on: Examination) -> None:
    """It runs on a tiny task, yielding finite losses."""
    if on.reason is not None:
        raise Fault(f"it does not run: {on.reason}")
    if not on.first.yielded:
        raise Fault("it yielded nothing: yield the loss at every step, a closed form once")
    for step, loss in enumerate(on.first.yielded, 1):
        if isinstance(loss, str):
            raise Fault(f"at step {step} it yielded {loss}: yield the loss as a number")
        if not math.isfinite(loss):
            raise Fault(f"at step {step} it yielded a loss of {loss}")


_CHECKS["runs"] = _runs


@_of_run
def _random_numbers(on: Examination) -> None:
    """It draws from its own seed, not from global random numbers."""
    if on.first.drew:
        raise Fault(f"it uses the global random numbers of {', '.join(on.first.drew)}: draw from a generator "
                    "begun from the seed you are given, or inside `data.drawing()`")  # fmt: skip
    if not same(on.first.end, on.elsewhere.end):
        raise Fault("its result changes with random numbers that others have drawn: draw from the seed you are given")


@_of_run
def _repeats(on: Examination) -> None:
    """The same seed gives the same result."""
    if not same(on.first.end, on.again.end):
        raise Fault(
            "run twice with the same seed it gives two results: is there a set, a clock, or state kept between runs?"
        )


@_of_run
def _changes(on: Examination) -> None:
    """It changes what it says it changes, and nothing else."""
    start, end, allowed = on.first.states[0], on.first.end, on.first.allowed
    changed = {name for name in end if name not in start or not torch.equal(start[name], end[name])}
    if allowed is not None and (more := sorted(changed - allowed)):
        raise Fault(f"it changes weights that it says it leaves alone: {', '.join(more[:3])}{' …' * (len(more) > 3)}")
    if on.first.altered:
        raise Fault(f"it changes the data it is given: {', '.join(on.first.altered)}")
    if not changed and not on.measures and not _does_nothing(on):
        raise Fault("it changes nothing")


@_of_run
def _progress(on: Examination) -> None:
    """Of an attacker: each yield is one step that has moved something."""
    for step, (before, after) in enumerate(zip(on.first.states, on.first.states[1:], strict=False), 1):
        if on.attacks and same(before, after):
            raise Fault(
                f"nothing has moved between yields {step - 1} and {step}: yield once for each optimisation step"
            )


@_of_run
def _memory(on: Examination) -> None:
    """It does not hold on to more with every step."""
    counts = list(on.first.tensors.items())
    if len(counts) == 2:
        (half, before), (last, after) = counts
        if after - before >= last - half:
            raise Fault(f"from step {half} to {last} the tensors it holds rose by {after - before}: keep none of a "
                        "step that is over; collect losses as floats")  # fmt: skip


@_of_run
def _condition_of_the_model(on: Examination) -> None:
    """Of a defense or a metric: the model is left in its mode, dtype and gradients, and without hooks."""
    left = [text for text in on.first.left if not (on.attacks and text.startswith("gradients of"))]
    if left:
        raise Fault(f"it leaves the model otherwise than it was: {'; '.join(left[:3])}")


@_of_run
def _goes_on(on: Examination) -> None:
    """Of an attacker: it goes on until the harness stops it."""
    if on.attacks and on.first.ended:
        raise Fault(f"it ended after {len(on.first.yielded)} steps: go on for ever, the harness decides when to stop")


@_of_run
def _breaks_the_undefended(on: Examination) -> None:
    """Of an attacker: it learns the task on a model that nobody has defended."""
    losses = on.first.losses
    if on.first.broken is not None and not on.first.ended:
        step = max(losses)
        if not losses[step] <= on.first.broken * losses[0]:
            raise Fault(f"it does not break the undefended model: in {step} steps the task's loss went from "
                        f"{losses[0]:.3g} to {losses[step]:.3g}, and {on.first.broken * losses[0]:.3g} is asked for; "
                        "are its default settings too weak?")  # fmt: skip


@_of_run
def _twice_the_steps(on: Examination) -> None:
    """Of an attacker: twice the steps are no weaker."""
    losses = on.first.losses
    if on.attacks and len(losses) == 3:
        half, last = sorted(losses)[1:]
        if not losses[last] <= 1.05 * losses[half]:
            raise Fault(f"it grows weaker: the task's loss is {losses[half]:.3g} after {half} steps and "
                        f"{losses[last]:.3g} after {last}; is its step size too large?")  # fmt: skip


def _does_nothing(on: Examination) -> bool:
    """The row without a defense, which says so."""
    return not on.attacks and on.cls.deterministic and len(on.first.yielded) == 1
