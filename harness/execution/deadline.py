"""A time limit for what may hang, in whatever thread it runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

GRACE = 30.0
"""Seconds that a block is given to heed its time limit."""


class Passed(BaseException):
    """The time is up; no `Exception`, so that code which passes over errors does not pass over this."""


@contextlib.contextmanager
def within(seconds: float | None, end_process: bool = False) -> Iterator[None]:
    """Raise `Passed` in the block once it has lasted so long (None: never).

    Python raises between two of its own instructions, so what hangs inside a library is not reached. end_process: then
    end this process after `GRACE` more seconds.
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
