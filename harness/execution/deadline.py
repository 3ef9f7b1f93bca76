"""A time limit for a block of code, in any thread."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import threading
import time
from collections.abc import Iterator

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
    end_process: end this process if the block is still running `GRACE` seconds later, whatever it does.
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
    """Set or clear (None) the time at which the process ends because of `block`. A thread in C waits for it, since a
    library may hold Python's lock."""
    with _lock:
        _ends.pop(block, None)
        if at is not None:
            _ends[block] = at
        if _ends:
            left = max(0.001, min(_ends.values()) - time.monotonic())
            faulthandler.dump_traceback_later(left, exit=True, file=_NOWHERE)
        else:
            faulthandler.cancel_dump_traceback_later()
