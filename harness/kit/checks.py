"""The checks of the conformance kit. Each is a function that raises `Fault` with what is wrong and how to mend it.

Source checks read the plugin; run checks run it on a tiny task of its track.
"""

from __future__ import annotations

import ast
import inspect
import math
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from harness.errors import UsageError, describe, nearest
from harness.meter import LARGEST_NORM
from harness.metric import Quantity
from harness.plugin import Plugin
from harness.registry import installed
from harness.source import closure, libraries, parse, read_class

if TYPE_CHECKING:
    from harness.kit.examine import Examination

_REFERENCE = re.compile(r"\b(1[6-9]|20)\d\d\b|arxiv|doi\.org|https?://|\bcontrol\b", re.IGNORECASE)
PUBLIC = ("harness", "harness.probe", "harness.deep", "harness.diffusion")
"""Modules of the harness that plugins import."""
_DEVICE = re.compile(r"^(cuda|cpu|mps)(:\d+)?$")


class Fault(AssertionError):
    """What is wrong with a plugin."""


@dataclass(frozen=True)
class Check:
    """One check of one plugin; calling it raises `Fault` if the plugin fails.

    name: name of the check. about: what is checked. run: the function that checks. examination: the plugin with the
    results of running it.
    """

    name: str
    about: str
    run: Callable[[Examination], None] = field(repr=False)
    examination: Examination = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Run the check; raises `Fault`. Of a plugin that does not run, `runs` alone says so."""
        needs_run = self.run in (*RUN_CHECKS, *KIND_RUN_CHECKS[self.examination.plugin.kind])
        if not needs_run or self.examination.reason is None:
            self.run(self.examination)


def checks(
    plugin: type[Plugin], preset: str | None = None, files: Sequence[str | Path] = (), **settings: Any
) -> list[Check]:
    """All checks of a plugin class.

    preset, settings: instead of the defaults. files: plugin files, one of which may hold the plugin's track. A plugin
    for any track is run on each. Raises `UsageError` if there is no such preset or track, or for an invalid setting.
    """
    from harness.kit.examine import Examination

    if preset is not None and preset not in plugin.presets:
        raise UsageError(f"{plugin.__name__} has no preset '{preset}'; it has: {', '.join(plugin.presets) or 'none'}")
    try:
        built = plugin(**{**(plugin.presets[preset] if preset else {}), **settings})
    except ValidationError as error:
        raise UsageError(f"{plugin.__name__}: {describe(error)}") from None
    tracks = installed().with_files(files).all("track")
    own = [track for track in tracks if plugin.track in (track.name, "any")]
    if not own:
        hint = nearest(plugin.track, [track.name for track in tracks])
        raise UsageError(f"{plugin.__name__} belongs to track '{plugin.track}', which is unknown here; {hint}")
    examinations = [Examination(built, track.load()()) for track in own]
    suffixes = [f"[{track.name}]" if len(own) > 1 else "" for track in own]
    return [_check(function, examinations[0]) for function in (*SOURCE_CHECKS, *KIND_SOURCE_CHECKS[built.kind])] + [
        _check(function, examination, suffix)
        for examination, suffix in zip(examinations, suffixes, strict=True)
        for function in (runs, *RUN_CHECKS, *KIND_RUN_CHECKS[built.kind])
    ]


def _check(function: Callable[[Examination], None], examination: Examination, suffix: str = "") -> Check:
    return Check(function.__name__ + suffix, inspect.getdoc(function) or "", function, examination)


def fields(examination: Examination) -> None:
    """Every field has a description, and every number a bound."""
    for name, info in examination.cls.__pydantic_fields__.items():
        if not info.description:
            raise Fault(f"field '{name}' has no description: write {name}: … = Field(…, description=\"…\")")
        types = set(get_args(info.annotation)) or {info.annotation}
        bounded = any(hasattr(limit, side) for limit in info.metadata for side in ("gt", "ge", "lt", "le"))
        if types & {int, float} and not bounded:
            raise Fault(f"field '{name}' is a number without a bound: give it gt, ge, lt or le")


def docstring(examination: Examination) -> None:
    """The docstring names the method's source."""
    cls = examination.cls
    text = read_class(Path(inspect.getfile(cls)), cls.__name__).get("doc") or ""
    if not text:
        raise Fault("the class has no docstring; `immunebench list` shows its first line")
    if not _REFERENCE.search(f"{text} {getattr(inspect.getmodule(cls), '__doc__', '')}"):
        raise Fault("the docstring names no source: give the paper with its year, or a link, or say it is a control")


def listing(examination: Examination) -> None:
    """`immunebench list` can read the class without importing it."""
    cls = examination.cls
    about = read_class(Path(inspect.getfile(cls)), cls.__name__)
    if not about or inspect.cleandoc(about["doc"]) != inspect.getdoc(cls):
        raise Fault("the class cannot be read from its source: use a `class` statement with a literal docstring")
    if about.get("track", "") != cls.track:
        raise Fault('the track cannot be read from the source: inherit from its track\'s base, or write `track = "…"`')


def pickles(examination: Examination) -> None:
    """The plugin can be sent to a worker."""
    try:
        same = pickle.loads(pickle.dumps(examination.plugin)) == examination.plugin  # bytes made in this line
    except Exception as error:
        raise Fault(f"it cannot be pickled: {error}; keep plain data in its fields") from None
    if not same:
        raise Fault("after pickling it is not equal to itself: do not change fields after it is made")


def device(examination: Examination) -> None:
    """The source names no device."""
    for node in ast.walk(parse(Path(inspect.getfile(examination.cls)))):
        match node:
            case ast.Constant(value=str(text)) if _DEVICE.match(text):
                raise Fault(f"line {node.lineno} names the device '{text}': use the device of the tensors given")
            case ast.Attribute(attr=("cuda" | "cpu") as name) if not isinstance(node.value, ast.Name) or (
                node.value.id != "torch"
            ):
                raise Fault(f"line {node.lineno} calls .{name}(): use the device of the tensors given")


def quantities(examination: Examination) -> None:
    """It declares its quantities, and which model it measures."""
    cls = examination.cls
    declared = getattr(cls, "quantities", ())
    if not declared or not all(isinstance(quantity, Quantity) for quantity in declared):
        raise Fault("it declares no quantities: write quantities = (Quantity(name=…, title=…, description=…),)")
    names = [quantity.name for quantity in declared]
    if len(set(names)) < len(names):
        raise Fault(f"two of its quantities have one name: {', '.join(names)}")
    measures = getattr(cls, "measures", None)
    if measures not in ("released", "attacked"):
        raise Fault(f"measures is {measures!r}: write released or attacked")


def runs(examination: Examination) -> None:
    """It runs on a tiny task and yields finite numbers."""
    if examination.reason is not None:
        raise Fault(f"it does not run: {examination.reason}")
    run = examination.first
    if not run.yielded:
        raise Fault("it yielded nothing: yield the loss at every step, or once for a closed form")
    for step, loss in enumerate(run.yielded, 1):
        if isinstance(loss, str):
            raise Fault(f"at step {step} it yielded {loss}: yield the loss as a number")
        if not math.isfinite(loss):
            raise Fault(f"at step {step} it yielded a loss of {loss}")


def values(examination: Examination) -> None:
    """It yields values of the quantities that it declares."""
    run = examination.first
    if len(run.values) < len(run.yielded):
        raise Fault("it yielded something else than a value: yield self.value(number, …)")
    names = {quantity.name for quantity in getattr(examination.cls, "quantities", ())}
    for value in run.values:
        if value.get("metric") not in names:
            raise Fault(f"it yielded a value of '{value.get('metric')}', which is none of its quantities")


def random_numbers(examination: Examination) -> None:
    """It draws from its own seed, not from global random numbers."""
    if examination.first.global_draws:
        raise Fault(
            f"it uses the global random numbers of {', '.join(examination.first.global_draws)}: draw from a generator "
            "seeded with the seed given, or inside `data.drawing()`"
        )
    if not examination.first.ends_like(examination.other_globals):
        raise Fault("its result depends on the state of global random generators: draw from the seed given")


def repeats(examination: Examination) -> None:
    """The same seed gives the same result."""
    run = examination.first
    if not run.ends_like(examination.other_globals) and not run.ends_like(examination.again):
        raise Fault("two runs with the same seed differ: look for a set, a clock, or state kept between runs")


def changes(examination: Examination) -> None:
    """It changes the weights that it says it changes, and nothing else."""
    run = examination.first
    if run.allowed is not None and (more := sorted(run.changed - run.allowed)):
        raise Fault(f"it changes weights that it should not: {', '.join(more[:3])}{' …' * (len(more) > 3)}")
    if run.changed_data:
        raise Fault(f"it changes the data given: {', '.join(run.changed_data)}")
    does_nothing = not examination.is_attacker and examination.cls.deterministic and len(run.yielded) == 1
    if not run.changed and not examination.is_metric and not does_nothing:
        raise Fault("it changes nothing")


def progress(examination: Examination) -> None:
    """Each yield is one step that changes a weight."""
    if idle := examination.first.idle_steps():
        step = idle[0]
        raise Fault(f"no weight changed between yields {step - 1} and {step}: yield once for each optimisation step")


def memory(examination: Examination) -> None:
    """It does not keep more tensors with every step."""
    if len(examination.first.tensors) < 2:
        return
    (half, before), (last, after) = examination.first.tensors.items()
    if after - before >= last - half:
        raise Fault(
            f"from step {half} to {last} the number of its tensors rose by {after - before}: keep no tensor of a "
            "finished step; collect losses as floats"
        )


def model_state(examination: Examination) -> None:
    """It leaves the model's mode, dtypes and gradients as they were, and no hooks; an attacker may leave gradients."""
    changed = examination.first.model_state
    if examination.is_attacker:
        changed = [text for text in changed if not text.startswith("gradients of")]
    if changed:
        raise Fault(f"it changes the model's state: {'; '.join(changed[:3])}")


def process(examination: Examination) -> None:
    """It leaves its process, the harness's functions and the defaults of torch as they were."""
    run = examination.first
    if run.replaced:
        raise Fault(f"it replaces {run.replaced[0]}: leave the harness as it is; a run would not use the change")
    if run.process:
        raise Fault(f"it leaves its process changed: {'; '.join(run.process)}: restore what it changes")


def released(examination: Examination) -> None:
    """It leaves finite weights of the base model's names, shapes, dtypes and size."""
    from harness.execution.released import norm  # with torch

    run = examination.first
    start = run.states[0]
    if run.added:
        raise Fault(f"it adds {run.added[0]}: change weights in place, and no modules")
    for name, value in start.items():
        end = run.end.get(name)
        if end is None:
            raise Fault(f"it removes {name}: change weights in place, and no modules")
        if (end.shape, end.dtype) != (value.shape, value.dtype):
            raise Fault(
                f"it leaves {name} as {end.dtype} {tuple(end.shape)}, it was {value.dtype} {tuple(value.shape)}"
            )
    if not all(value.isfinite().all() for value in run.end.values()):
        raise Fault("it leaves weights that are not finite")
    ratio = norm(run.end) / norm(start)
    if ratio > LARGEST_NORM:
        raise Fault(f"it leaves weights with {ratio:.2g} times the norm of the base model's, which boards flag")


def seeds(examination: Examination) -> None:
    """It runs with every seed."""
    for seed, reason in examination.failed_seeds.items():
        raise Fault(
            f"it does not run with the seed {seed}: {reason}; a run counts the cells that it fails as the worst"
        )


def imports(examination: Examination) -> None:
    """It imports the public faces of the harness only and, as a defense, no attacker."""
    cls = examination.cls
    spec = sys.modules[cls.__module__].__spec__
    if spec is None or cls.__module__.partition(".")[0] == "harness":
        return
    files = closure(spec)
    for name in sorted(libraries(files.values()) | files.keys()):
        if name.partition(".")[0] == "harness" and name not in PUBLIC:
            raise Fault(f"it imports {name}: import from {', '.join(PUBLIC)}")
        if cls.kind == "defense" and name.partition(".")[0] == "attackers":
            raise Fault(f"it imports {name}: a defense knows no attacker of a suite")


def endless(examination: Examination) -> None:
    """It goes on until the harness stops it."""
    if examination.first.ended:
        steps = len(examination.first.yielded)
        raise Fault(f"it ended after {steps} steps: loop without end, the harness decides when to stop")


def success(examination: Examination) -> None:
    """It learns the harmful task on an undefended model."""
    run = examination.first
    if run.ended:
        return
    step, wanted = max(run.losses), run.success * run.losses[0]
    if not run.losses[step] <= wanted:
        raise Fault(
            f"it does not break the undefended model: in {step} steps the loss went from {run.losses[0]:.3g} to "
            f"{run.losses[step]:.3g}, and must reach {wanted:.3g}; are its default settings too weak?"
        )


def more_steps(examination: Examination) -> None:
    """It is no weaker with twice the steps."""
    losses = examination.first.losses
    if len(losses) < 3:
        return
    half, last = sorted(losses)[1:]
    if not losses[last] <= 1.05 * losses[half]:
        raise Fault(
            f"it grows weaker: the loss is {losses[half]:.3g} after {half} steps and {losses[last]:.3g} after {last}; "
            "is its step size too large?"
        )


SOURCE_CHECKS = (fields, docstring, listing, pickles, device, imports)
"""Of every plugin; they do not run it."""
KIND_SOURCE_CHECKS: Mapping[str, tuple[Callable[[Examination], None], ...]] = {
    "attacker": (),
    "defense": (),
    "metric": (quantities,),
}
RUN_CHECKS = (random_numbers, repeats, changes, memory, model_state, process)
"""Of every plugin that runs."""
KIND_RUN_CHECKS: Mapping[str, tuple[Callable[[Examination], None], ...]] = {
    "attacker": (progress, endless, success, more_steps),
    "defense": (released, seeds),
    "metric": (values,),
}
