"""Runs a plugin's generator: counts its steps and gradient evaluations, measures time and memory, and raises if it
breaks the contract."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import math
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
from pydantic import BaseModel

from harness.errors import PluginError
from harness.files import write_text

FILE = "meter.json"
NORM = "weight norm"
"""Name of the note that the harness adds for a defense whose weights grew beyond `LARGEST_NORM`."""
MOST_STEPS = 10**6
"""Largest number of steps of a plugin that ends by itself."""
LARGEST_NORM = 1e4
"""Largest ratio of the norms of released and base weights that boards do not flag."""


class Spent(BaseModel):
    """What a generator has spent so far.

    gradients: gradient evaluations of the track's model, see `count_gradient`. samples: rows or pictures that they
    read, each time they were read. seconds: wall time inside the plugin, without the harness's measuring; the GPU's
    work is included, for the clock is read when the GPU has finished.
    """

    gradients: float = 0.0
    samples: int = 0
    seconds: float = 0.0


class Cost(Spent):
    """The run cost of one generator.

    steps: number of times that it yielded. peak_mb: highest memory while it ran, less that at its start, in MiB: memory
    that torch allocated on the GPU if it allocated any there, else the process's resident memory. at: what it had spent
    after the marked steps. notes: numbers that the plugin reports itself, by name.
    """

    steps: int = 0
    peak_mb: float = 0.0
    at: dict[int, Spent] = {}
    notes: dict[str, float] = {}

    def save(self, folder: Path) -> None:
        """Save the cost in the artifact folder `folder`."""
        write_text(folder / FILE, self.model_dump_json())

    @classmethod
    def load(cls, folder: Path) -> Cost:
        """The cost saved in the artifact folder `folder`."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))


_spending: Spent | None = None
"""What the generator that runs at this moment has spent."""


def count_gradient(samples: int, evaluations: float = 1.0) -> None:
    """Count an evaluation of a gradient, forward and backward; a track's model calls it in each one. While no plugin
    runs, as when the harness measures, it does nothing.

    samples: number of rows or pictures that the evaluation reads. evaluations: number of evaluations; a product without
    a gradient, as in a line search, is half of one.
    """
    if _spending is not None:
        _spending.gradients += evaluations
        _spending.samples += samples


def pull(
    generator: Any,
    who: str,
    steps: int | None = None,
    on_step: Callable[[int], None] | None = None,
    record_at: Collection[int] = (),
) -> Cost:
    """Run `generator` for `steps` steps, or to its end if `steps` is None, and return its cost.

    who: name of the plugin in errors. on_step(t): called after step t = 1, 2, …; its time is not counted. record_at:
    steps after which the cost so far is recorded. Raises `PluginError` if `generator` is no generator, yields nothing,
    ends before `steps`, does not end within `MOST_STEPS` steps, or yields a loss that is not a finite number.
    """
    if not inspect.isgenerator(generator):
        raise PluginError(f"{who} returned {type(generator).__name__}; it must be a generator that yields its loss")
    memory = PeakMemory()
    cost = Cost()
    try:
        while cost.steps < (MOST_STEPS if steps is None else steps):
            try:
                loss = _next(generator, cost)
            except StopIteration:
                break
            cost.steps += 1
            if cost.steps in record_at:
                cost.at[cost.steps] = Spent(**{name: getattr(cost, name) for name in Spent.model_fields})
            cost.peak_mb = max(cost.peak_mb, memory.risen())
            _check(loss, who, cost.steps)
            if on_step is not None:
                on_step(cost.steps)
        else:
            if steps is None:
                raise PluginError(f"{who} has not ended after {MOST_STEPS} steps")
    finally:
        generator.close()
    if cost.steps == 0:
        raise PluginError(f"{who} yielded nothing; it must yield its loss at every step")
    if steps is not None and cost.steps < steps:
        raise PluginError(
            f"{who} ended after {cost.steps} of {steps} steps; an attacker must continue until the harness stops it"
        )
    return cost


def _next(generator: Any, cost: Cost) -> Any:
    """The next value of a generator; what it spends is added to `cost`."""
    global _spending
    began, _spending = _clock(), cost
    try:
        return next(generator)
    finally:
        _spending = None
        cost.seconds += _clock() - began


class PeakMemory:
    """Measures how far the memory of this process has risen since the object was created: memory that torch allocated
    on the current GPU if it has risen, else the resident memory.

    The object first returns memory that earlier jobs freed to the operating system, because reusing it would not count
    as a rise. Linux records the peak between two measurements; elsewhere a peak between them is missed.
    """

    def __init__(self) -> None:
        cuda = _cuda()
        self._gpu_start = 0
        if cuda:
            cuda.reset_peak_memory_stats()
            self._gpu_start = cuda.memory_allocated()
        with contextlib.suppress(OSError, AttributeError):  # another libc has no such call
            ctypes.CDLL(None).malloc_trim(0)
        self._process = psutil.Process()
        self._start = self._process.memory_info().rss
        try:
            Path("/proc/self/clear_refs").write_bytes(b"5")  # resets the recorded peak to the present memory
            self._has_peak = True
        except OSError:
            self._has_peak = False

    def risen(self) -> float:
        """The rise up to the highest memory so far, in MiB."""
        cuda = _cuda()
        on_gpu: int = cuda.max_memory_allocated() - self._gpu_start if cuda else 0
        if on_gpu > 0:
            return on_gpu / 2**20
        now = _highest() if self._has_peak else self._process.memory_info().rss
        return (now - self._start) / 2**20


def peak_mb() -> float:
    """Highest resident memory of this process, in MiB: on Linux since the latest `PeakMemory` was created; elsewhere
    the present memory."""
    try:
        return _highest() / 2**20
    except OSError:
        return psutil.Process().memory_info().rss / 2**20


def _highest() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024


def _check(loss: Any, who: str, step: int) -> None:
    try:
        value = float(loss.detach() if hasattr(loss, "detach") else loss)
    except (TypeError, ValueError, RuntimeError):
        raise PluginError(f"{who} yielded {type(loss).__name__} at step {step}; yield the loss as a number") from None
    if not math.isfinite(value):
        raise PluginError(f"{who} yielded a loss of {value} at step {step}")


def _cuda() -> Any:
    """The module `torch.cuda` if this process uses a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() and torch.cuda.is_available() else None


def _clock() -> float:
    """The time in seconds, after the GPU has finished all work that this process gave it."""
    if cuda := _cuda():
        cuda.synchronize()
    return perf_counter()
