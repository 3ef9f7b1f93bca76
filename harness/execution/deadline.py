"""A time limit for a block of code, in any thread."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

GRACE = 30.0
"""Seconds between the time limit and the end of a process that ignores it."""


class Passed(BaseException):
    """The time limit has passed. Not an `Exception`, so `except Exception` does not catch it."""


@contextlib.contextmanager
def within(seconds: float | None, end_process: bool = False) -> Iterator[None]:
    """Raise `Passed` in the block after `seconds` (None: never).

    Python raises it between two of its own instructions, so a call that hangs inside a C library is not interrupted.
    end_process: end this process if the block is still running `GRACE` seconds later.
    """
    if seconds is None:
        yield
        return
    thread, done = ctypes.c_ulong(threading.get_ident()), threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Passed))
            if end_process and not done.wait(GRACE):
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
