"""One plugin, tried on its track's trial: what happened, for the conformance kit to judge."""

from __future__ import annotations

import gc
import inspect
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from harness.errors import RunError, UsageError
from harness.execution.determinism import alone
from harness.kit.trial import Trial
from harness.plugin import Attacker, Measure, Plugin, Track

SEED = 1
WATCHED = 3
"""Steps after each of which an attacker must have moved something."""


@dataclass
class Run:
    """What happened on one trial. states: all weights at the start and after each of the first steps; losses: the
    harmful task's by step; tensors: how many new ones there were by step; left: what the released model was left with.
    """

    states: list[dict[str, torch.Tensor]] = field(default_factory=list)
    end: dict[str, torch.Tensor] = field(default_factory=dict)
    yielded: list[float | str] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)
    tensors: dict[int, int] = field(default_factory=dict)
    ended: bool = False
    left: list[str] = field(default_factory=list)
    drew: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    allowed: set[str] | None = None
    broken: float | None = None


class Examination:
    """One plugin, tried on its track's trial as often as its checks need."""

    def __init__(self, plugin: Plugin, track: Track) -> None:
        self.plugin, self.track, self.cls = plugin, track, type(plugin)
        self.attacks, self.measures = isinstance(plugin, Attacker), isinstance(plugin, Measure)

    @cached_property
    def first(self) -> Run:
        """The run that most checks look at."""
        return self._run(global_seed=0)

    @cached_property
    def again(self) -> Run:
        """The same once more."""
        return self._run(global_seed=0)

    @cached_property
    def elsewhere(self) -> Run:
        """The same where others have drawn random numbers."""
        return self._run(global_seed=99)

    @cached_property
    def reason(self) -> str | None:
        """Why it does not run at all, if so."""
        try:
            self.first  # noqa: B018 (a cached property, which runs here)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _run(self, global_seed: int) -> Run:
        trials = self.track.trials(self.plugin.kind, SEED)
        if not trials:
            raise UsageError(f"track '{self.track.name}' has no trial for {self.plugin.kind}s")
        for trial in trials[:-1]:
            try:
                return self._on(trial, global_seed)
            except RunError:  # it refuses this one
                continue
        return self._on(trials[-1], global_seed)

    def _on(self, trial: Trial, global_seed: int) -> Run:
        run = Run()
        allowed = () if self.measures else trial.allowed(self.plugin)
        run.allowed = None if allowed is None else set(allowed)
        run.broken = trial.broken if self.attacks else None
        given = {name: value.clone() for name, value in trial.given().items()}
        with alone(global_seed), _only_new_objects():
            run.losses[0] = trial.loss(self.plugin)
            before, drawn = _condition(trial), _drawn()
            run.states.append(_weights(trial))
            generator = trial.begin(self.plugin)
            if not inspect.isgenerator(generator):
                raise TypeError(f"it returned {type(generator).__name__}, and is to yield its loss at every step")
            half = trial.steps // 2
            for step in range(1, trial.steps + 1):
                try:
                    loss = next(generator)
                except StopIteration:
                    run.ended = True
                    break
                run.yielded.append(_number(loss))
                if step <= WATCHED:
                    run.states.append(_weights(trial))
                if step in (half, trial.steps):
                    run.losses[step] = trial.loss(self.plugin) if self.attacks else math.nan
                    run.tensors[step] = _tensors()
            generator.close()
            run.drew = [name for name, value in _drawn().items() if not np.array_equal(value, drawn[name])]
            run.end = _weights(trial)
            after = _condition(trial)
        run.left = [text for thing, (value, text) in after.items() if before.get(thing, (value,))[0] != value]
        run.altered = [name for name, value in trial.given().items() if not torch.equal(value, given[name])]
        return run


def _number(loss: Any) -> float | str:
    """A yielded loss, or a metric's figure, as a number, or the name of what it is instead."""
    if isinstance(loss, Mapping):
        loss = loss.get("value") or 0.0
    try:
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
    except (TypeError, ValueError, RuntimeError):
        return type(loss).__name__


def _weights(trial: Trial) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers; an adapter's wrapping is taken off the names."""
    return {
        f"{part}.{name}".replace(".base_layer", ""): value.detach().clone()
        for part, module in trial.modules().items()
        for name, value in module.state_dict().items()
    }


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two copies of all weights are equal."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def _drawn() -> dict[str, Any]:
    """Where the global random numbers stand."""
    _, numbers, place, *_ = np.random.get_state()
    return {"torch": torch.get_rng_state().numpy(), "numpy": np.append(numbers, place),
            "Python": np.array(random.getstate()[1])}  # fmt: skip


def _condition(trial: Trial) -> dict[Any, tuple[Any, str]]:
    """What a plugin must leave as it was and how to say it, by what it is of; modules that it puts in are its own."""
    grad = torch.is_grad_enabled()
    found: dict[Any, tuple[Any, str]] = {None: (grad, f"gradients are {'on' if grad else 'off'} in torch as a whole")}
    for part, module in trial.modules().items():
        for name, child in module.named_modules():
            at = f"{part}.{name}".rstrip(".")
            hooks = len(child._forward_hooks) + len(child._forward_pre_hooks) + len(child._backward_hooks)
            mode = "training" if child.training else "evaluation"
            found["mode", child] = mode, f"{at} is in {mode} mode"
            found["hooks", child] = hooks, f"{at} has {hooks} hooks"
        for name, weight in module.named_parameters():
            at = f"{part}.{name}"
            found["dtype", weight] = weight.dtype, f"{at} is of {weight.dtype}"
            asked, there = weight.requires_grad, weight.grad is not None
            found["asked", weight] = asked, f"gradients of {at} are {'on' if asked else 'off'}"
            found["there", weight] = there, f"gradients of {at} are {'still' if there else 'not'} there"
    return found


@contextmanager
def _only_new_objects() -> Iterator[None]:
    """Hide every object that exists already from the garbage collector, so that `_tensors` walks only new ones."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _tensors() -> int:
    """How many tensors were made since the trial began and are still there."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
