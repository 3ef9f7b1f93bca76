"""Runs one plugin on its track's trial and records what happened, for the conformance kit's checks."""

from __future__ import annotations

import gc
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch

from harness.errors import RunError, UsageError
from harness.execution import surroundings
from harness.execution.child import Closed
from harness.execution.determinism import isolated
from harness.execution.failure import line
from harness.importing import definitions, restore_definitions
from harness.interrupts import contained
from harness.kit.trial import Trial
from harness.plugin import Plugin
from harness.store import default_root
from harness.track import Track

SEED = 1
OTHER_SEEDS = (2, 3)
"""Further seeds of a defense that draws: a run counts each cell that it fails as the worst."""
COPIED_STEPS = 3
"""Number of first steps after which the weights are copied, to see what a step changes."""

Weights = Mapping[str, torch.Tensor]


@dataclass
class Run:
    """What happened in one run of a plugin on a trial.

    states: copies of all weights at the start and after each of the first steps. end: those at the end. yielded: losses
    or values as numbers; the type's name where it is no number. values: the mappings that a metric yielded. losses: the
    harmful task's loss by step, empty unless it was measured. tensors: how many new tensors existed by step. ended: the
    generator ended by itself. model_state: how the model's mode, dtypes, gradients and hooks differ at the end. added:
    names of weights and buffers that the model lacked and a defense may not add. global_draws: libraries whose global
    random numbers were used. changed_data: names of given tensors that were changed. allowed: weights that the plugin
    says it changes; None if it does not say. success: the share of the initial loss that an attack must reach. process:
    how it left its process. replaced: names of the harness's functions that it replaced.
    """

    states: list[dict[str, torch.Tensor]] = field(default_factory=list)
    end: dict[str, torch.Tensor] = field(default_factory=dict)
    yielded: list[float | str] = field(default_factory=list)
    values: list[Mapping[str, Any]] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)
    tensors: dict[int, int] = field(default_factory=dict)
    ended: bool = False
    model_state: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    global_draws: list[str] = field(default_factory=list)
    changed_data: list[str] = field(default_factory=list)
    allowed: set[str] | None = None
    success: float = 0.0
    process: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    @property
    def changed(self) -> set[str]:
        """Names of the weights that differ between start and end."""
        start = self.states[0]
        return {name for name, value in self.end.items() if name not in start or not torch.equal(start[name], value)}

    def ends_like(self, other: Run) -> bool:
        """Whether two runs left the same weights and yielded the same numbers."""
        return _same(self.end, other.end) and str(self.yielded) == str(other.yielded)

    def idle_steps(self) -> list[int]:
        """Steps, among the first ones, in which no weight changed."""
        pairs = zip(self.states, self.states[1:], strict=False)
        return [step for step, (before, after) in enumerate(pairs, 1) if _same(before, after)]


class Examination:
    """One plugin on its track's trial, run as often as its checks need."""

    def __init__(self, plugin: Plugin, track: Track) -> None:
        self.plugin, self.track, self.cls = plugin, track, type(plugin)
        self.is_attacker, self.is_metric = plugin.kind == "attacker", plugin.kind == "metric"

    @cached_property
    def first(self) -> Run:
        """The run that most checks examine."""
        return self._run(losses=True)

    @cached_property
    def again(self) -> Run:
        """The same run once more."""
        return self._run()

    @cached_property
    def other_globals(self) -> Run:
        """The same run with another state of the global random generators."""
        return self._run(global_seed=99)

    @cached_property
    def reason(self) -> str | None:
        """Why the plugin does not run; None if it does."""
        return _failure(lambda: self.first)

    @cached_property
    def failed_seeds(self) -> dict[int, str]:
        """Those of `OTHER_SEEDS` with which the plugin does not run, each with the reason."""
        seeds = () if self.cls.deterministic else OTHER_SEEDS
        reasons = {seed: _failure(partial(self._run, seed=seed)) for seed in seeds}
        return {seed: reason for seed, reason in reasons.items() if reason is not None}

    def _run(self, global_seed: int = 0, losses: bool = False, seed: int = SEED) -> Run:
        trials = self.track.trials(self.plugin.kind, seed)
        if not trials:
            raise UsageError(f"track '{self.track.name}' has no trial for {self.plugin.kind}s")
        for trial in trials[:-1]:
            try:
                return self._run_on(trial, global_seed, losses)
            except RunError:  # the plugin refuses this trial
                continue
        return self._run_on(trials[-1], global_seed, losses)

    def _run_on(self, trial: Trial, global_seed: int, losses: bool) -> Run:
        run = Run(success=trial.broken)
        allowed = () if self.is_metric else trial.allowed(self.plugin)
        run.allowed = None if allowed is None else set(allowed)
        data = {name: value.clone() for name, value in trial.data.items()}
        alone = sys.platform == "linux"
        with isolated(global_seed), _only_new_objects(), _closed_store(self.plugin.kind):
            if losses and self.is_attacker:
                run.losses[0] = trial.loss(self.plugin)
            process, harness = surroundings.read(alone), definitions()
            state = _model_state(trial)
            run.states.append(_weights(trial))
            generator = trial.start(self.plugin)
            generators = _random_states()  # the trial may have drawn
            if not inspect.isgenerator(generator):
                raise TypeError(f"it returned {type(generator).__name__}; it must be a generator that yields its loss")
            half = trial.steps // 2
            for step in range(1, trial.steps + 1):
                try:
                    loss = next(generator)
                except StopIteration:
                    run.ended = True
                    break
                if self.is_metric and isinstance(loss, Mapping):
                    run.values.append(loss)
                    loss = loss.get("value") or 0.0
                run.yielded.append(_number(loss))
                if step <= COPIED_STEPS:
                    run.states.append(_weights(trial))
                if step in (half, trial.steps):
                    if losses and self.is_attacker:
                        run.losses[step] = trial.loss(self.plugin)
                    run.tensors[step] = _count_tensors()
            generator.close()
            after = _random_states()
            run.global_draws = [name for name, value in after.items() if not np.array_equal(value, generators[name])]
            run.end = _weights(trial)
            run.added = sorted(run.end.keys() - run.states[0].keys() - set(trial.optional))
            end_state = _model_state(trial)
            run.process = surroundings.restore(process, alone)
            run.replaced = restore_definitions(harness)
        run.model_state = [text for key, (value, text) in end_state.items() if state.get(key, (value,))[0] != value]
        run.changed_data = [name for name, value in trial.data.items() if not torch.equal(value, data[name])]
        return run


def _failure(run: Callable[[], Run]) -> str | None:
    """Why `run` raises; None if it does not."""
    try:
        with contained():
            run()
    except Exception as error:
        return f"{type(error).__name__}: {line(error)}"
    return None


_refusals: list[Callable[[str, tuple[Any, ...]], None]] = []
"""The audit hooks of the plugins that run at present; Python cannot remove one that it has."""


@cache
def _add_refusals() -> None:
    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        for hook in _refusals:
            hook(event, arguments)

    sys.addaudithook(refuse)


@contextmanager
def _closed_store(kind: str) -> Iterator[None]:
    """Refuse access to the store within the block, as a run does: a plugin of this `kind` must not change it, and a
    defense must not read it."""
    store = [str(default_root())]
    closed = Closed(to_reading=store) if kind == "defense" else Closed(to_writing=store)
    _add_refusals()
    _refusals.append(closed.hook())
    try:
        yield
    finally:
        _refusals.pop()


def _number(loss: Any) -> float | str:
    """A yielded loss as a number, or the name of its type if it is none."""
    try:
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
    except (TypeError, ValueError, RuntimeError):
        return type(loss).__name__


def _weights(trial: Trial) -> dict[str, torch.Tensor]:
    """Copies of all weights and buffers by name, without the names of wrapping adapters."""
    return {
        f"{part}.{name}".replace(".base_layer", ""): value.detach().clone()
        for part, module in trial.modules.items()
        for name, value in module.state_dict().items()
    }


def _same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def _random_states() -> dict[str, Any]:
    """The states of the global random generators by library."""
    _, numbers, position, *_ = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy(),
        "numpy": np.append(numbers, position),
        "Python": np.array(random.getstate()[1]),
    }


def _model_state(trial: Trial) -> dict[Any, tuple[Any, str]]:
    """What a defense or metric must leave unchanged beside weights: (value, how to say it) by module or weight and
    property. Modules that the plugin adds are its own."""
    on = torch.is_grad_enabled()
    state: dict[Any, tuple[Any, str]] = {None: (on, f"gradients are {'on' if on else 'off'} in torch as a whole")}
    for part, module in trial.modules.items():
        for name, child in module.named_modules():
            path = f"{part}.{name}".rstrip(".")
            hooks = len(child._forward_hooks) + len(child._forward_pre_hooks) + len(child._backward_hooks)
            mode = "training" if child.training else "evaluation"
            state["mode", child] = mode, f"{path} is in {mode} mode"
            state["hooks", child] = hooks, f"{path} has {hooks} hooks"
        for name, weight in module.named_parameters():
            path = f"{part}.{name}"
            requires, has = weight.requires_grad, weight.grad is not None
            state["dtype", weight] = weight.dtype, f"{path} has dtype {weight.dtype}"
            state["requires_grad", weight] = requires, f"gradients of {path} are {'on' if requires else 'off'}"
            state["grad", weight] = has, f"gradients of {path} {'remain' if has else 'are gone'}"
    return state


@contextmanager
def _only_new_objects() -> Iterator[None]:
    """Hide existing objects from the garbage collector, so that `_count_tensors` visits only new ones."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _count_tensors() -> int:
    """How many tensors were made since the trial began and still exist."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
