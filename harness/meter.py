"""Runs a plugin's generator: counts its steps, measures seconds and memory, refuses what breaks the contract."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
from pydantic import BaseModel

from harness.errors import PluginError

FILE = "meter.json"


class Reading(BaseModel):
    """What a generator cost.

    steps: how often it yielded. seconds: wall time inside the plugin, without the harness's measuring. peak_mb: highest
    resident memory while it ran, less that at its start, in MiB. notes: numbers that the plugin notes of itself.
    """

    steps: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0
    notes: dict[str, float] = {}

    def save(self, folder: Path) -> None:
        """Save the reading in an artifact folder."""
        (folder / FILE).write_text(self.model_dump_json())

    @classmethod
    def load(cls, folder: Path) -> Reading:
        """The reading saved in an artifact folder."""
        return cls(**json.loads((folder / FILE).read_text()))


def pull(generator: Any, who: str, steps: int | None = None, on_step: Callable[[int], None] | None = None) -> Reading:
    """Run `generator` for `steps` steps, or to its end if None.

    who: the plugin's name in errors. on_step(t): called after step t = 1, 2, …; its time is not counted. Raises
    `PluginError` if the plugin is no generator, yields nothing, ends before `steps`, or yields a loss that is not a
    finite number.
    """
    if not inspect.isgenerator(generator):
        raise PluginError(f"{who} returned {type(generator).__name__}; it must be a generator that yields its loss")
    memory = PeakMemory()
    reading = Reading()
    try:
        while steps is None or reading.steps < steps:
            began = perf_counter()
            try:
                loss = next(generator)
            except StopIteration:
                reading.seconds += perf_counter() - began
                break
            reading.seconds += perf_counter() - began
            reading.steps += 1
            reading.peak_mb = max(reading.peak_mb, memory.risen())
            _check(loss, who, reading.steps)
            if on_step is not None:
                on_step(reading.steps)
    finally:
        generator.close()
    if reading.steps == 0:
        raise PluginError(f"{who} yielded nothing; it must yield its loss at every step")
    if steps is not None and reading.steps < steps:
        raise PluginError(
            f"{who} ended after {reading.steps} of {steps} steps; an attacker goes on until the harness stops it"
        )
    return reading


class PeakMemory:
    """How far this process's resident memory has risen since this object was made.

    Memory that earlier jobs freed is first returned to the system, since reusing it would not count as a rise. Linux
    records the peak between two readings; elsewhere only the moments of reading count.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # another libc has no such call
            ctypes.CDLL(None).malloc_trim(0)
        self._process = psutil.Process()
        self._start = self._process.memory_info().rss
        try:
            Path("/proc/self/clear_refs").write_text("5")  # lowers the mark to what is resident now
            self._marked = True
        except OSError:
            self._marked = False

    def risen(self) -> float:
        """The rise in MiB."""
        now = _highest() if self._marked else self._process.memory_info().rss
        return (now - self._start) / 2**20


def peak_mb() -> float:
    """Highest resident memory of this process in MiB, on Linux since a `PeakMemory` began; elsewhere that of now."""
    try:
        return _highest() / 2**20
    except OSError:
        return psutil.Process().memory_info().rss / 2**20


def _highest() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024


def _check(loss: Any, who: str, step: int) -> None:
    try:
        value = float(loss.detach() if hasattr(loss, "detach") else loss)
    except (TypeError, ValueError, RuntimeError):
        raise PluginError(f"{who} yielded {type(loss).__name__} at step {step}; yield the loss as a number") from None
    if not math.isfinite(value):
        raise PluginError(f"{who} yielded a loss of {value} at step {step}")
