"""A time limit for a block of code, in any thread."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

from harness.interrupts import Interrupt

GRACE = 30.0
"""Seconds between the time limit and the end of a process that ignores it."""


_NOWHERE = open(os.devnull, "wb")  # noqa: SIM115 (open as long as the process lives)


class Passed(Interrupt):
    """The time limit has passed."""


_ends: dict[object, float] = {}
"""By block: when this process ends, on `time.monotonic`'s clock, if the block is still running."""
_lock = threading.Lock()


@contextlib.contextmanager
def within(seconds: float | None, end_process: bool = False) -> Iterator[None]:
    """Raise `Passed` in the block after `seconds` (None: never).

    Python raises it between two of its own instructions, so a call that hangs inside a C library is not interrupted.
    end_process: end this process if the block is still running `GRACE` seconds later, whatever it does, and on Linux
    also if it is stopped.
    """
    if seconds is None:
        yield
        return
    thread, block, done = ctypes.c_ulong(threading.get_ident()), object(), threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            with _lock:
                if not done.is_set():
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Passed))

    threading.Thread(target=watch, daemon=True).start()
    if end_process:
        _end_process(block, time.monotonic() + seconds + GRACE)
    try:
        yield
    finally:
        with _lock:
            done.set()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # raised too late to be for the block
        if end_process:
            _end_process(block, None)


def _end_process(block: object, at: float | None) -> None:
    """Set or clear (None) the time at which the process ends because of `block`. The kernel or a thread in C waits for
    it, since a library may hold Python's lock."""
    with _lock:
        _ends.pop(block, None)
        if at is not None:
            _ends[block] = at
        left = max(0.001, min(_ends.values()) - time.monotonic()) if _ends else 0.0
        if _KERNEL:
            seconds, rest = divmod(left, 1)
            times = (ctypes.c_long * 4)(0, 0, int(seconds), int(rest * 1e9))  # an interval, and the first time
            _system.timer_settime(_timer(os.getpid()), 0, times, None)
        elif left:
            faulthandler.dump_traceback_later(left, exit=True, file=_NOWHERE)
        else:
            faulthandler.cancel_dump_traceback_later()


class _Event(ctypes.Structure):
    """What a timer of Linux does (`struct sigevent`). notify: 0 sends the signal `number` to the process."""

    _fields_: ClassVar = [
        ("value", ctypes.c_void_p), ("number", ctypes.c_int), ("notify", ctypes.c_int), ("rest", ctypes.c_byte * 48)
    ]  # fmt: skip


_system = ctypes.CDLL(None)
_KERNEL = sys.platform == "linux" and hasattr(_system, "timer_create")


@functools.cache
def _timer(process: int) -> ctypes.c_void_p:
    """A timer of the kernel that kills this process, whose id is `process`; a fork has none."""
    timer = ctypes.c_void_p()
    _system.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(_Event(number=signal.SIGKILL)), ctypes.byref(timer))
    return timer
