"""The state of its process that plugin code must leave as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from harness.errors import PluginError

FILES = 64
"""Number of open files that plugin code may leave, because libraries keep some."""


@contextlib.contextmanager
def preserved(alone: bool) -> Iterator[None]:
    """Raise `PluginError` after the block if it left this process in another state, and restore what can be.

    alone: nothing else runs in this process, so that threads, child processes and open files that are left belong to
    the block too.
    """
    before = read(alone)
    yield
    if changes := restore(before, alone):
        raise PluginError(f"plugin code left its process changed: {'; '.join(changes)}: restore what it changes")


def read(alone: bool) -> dict[str, Any]:
    """The present state by name. alone: as for `preserved`."""
    return {name: function() for name, function in {**_VALUES, **_STATE, **(_LEFT if alone else {})}.items()}


def restore(before: Mapping[str, Any], alone: bool) -> list[str]:
    """Restore what can be restored of the state `before`; returns how the present state differs from it, a short text
    for each difference."""
    changes = _changes(before, read(alone))
    _restore(before)
    return changes


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """How the state differs, a short text for each difference."""
    found = [f"{name} is {_short(after[name])}" for name in _VALUES if before[name] != after[name]]
    if lost := sorted(name for name, value in before["environ"].items() if after["environ"].get(name) != value):
        found.append(f"the environment variable {lost[0]} is another one")
    if after["path"][: len(before["path"])] != before["path"]:
        found.append("sys.path is another one")
    signals = [number.name for number, handler in before["signals"].items() if after["signals"][number] != handler]
    if signals:
        found.append(f"{signals[0]} has another handler")
    if after["alarm"]:
        found.append("an alarm is set")
    if "children" in before:
        if left := after["children"] - before["children"]:
            found.append(f"{len(left)} of its processes still run")
        if left := after["threads"] - before["threads"]:
            found.append(f"{len(left)} of its threads still run")
        if (more := after["files"] - before["files"]) > FILES:
            found.append(f"{more} files are left open")
    return found


def _restore(before: Mapping[str, Any]) -> None:
    """Set what is no setting of a library (see `harness.execution.determinism.isolated`) to the state `before`."""
    if os.environ != before["environ"]:
        os.environ.clear()
        os.environ.update(before["environ"])
    sys.path[:] = before["path"]
    if threading.current_thread() is threading.main_thread():
        for number, handler in before["signals"].items():
            if signal.getsignal(number) != handler and handler is not None:
                signal.signal(number, handler)
        if _alarm():
            signal.setitimer(signal.ITIMER_REAL, 0)


def _short(value: Any) -> str:
    return str(value).removeprefix("torch.")[-80:]


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "deleted"


def children() -> set[int]:
    """Process ids of this process's children."""
    try:
        files = list(Path("/proc/self/task").glob("*/children"))
        return {int(pid) for file in files for pid in file.read_text().split()}
    except OSError:
        return {child.pid for child in psutil.Process().children()}


def _alarm() -> bool:
    return hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL)[0] > 0


_VALUES: Mapping[str, Callable[[], Any]] = {
    "the working folder": _folder,
    "torch's default dtype": torch.get_default_dtype,
    "torch's default device": torch.get_default_device,
    "torch's number of threads": torch.get_num_threads,
    "the recording of gradients": torch.is_grad_enabled,
    "the use of deterministic algorithms": torch.are_deterministic_algorithms_enabled,
}
_STATE: Mapping[str, Callable[[], Any]] = {
    "environ": lambda: dict(os.environ),
    "path": lambda: list(sys.path),
    "signals": lambda: {number: signal.getsignal(number) for number in signal.Signals},
    "alarm": _alarm,
}
_LEFT: Mapping[str, Callable[[], Any]] = {
    "children": children,
    "threads": lambda: set(threading.enumerate()),
    "files": lambda: len(os.listdir("/proc/self/fd")),
}
