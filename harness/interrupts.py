"""What may end plugin code from outside (signals, time limits), and what plugin code may not end: the process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from harness.errors import PluginError


class Interrupt(BaseException):
    """Raised into running code from outside. Not an `Exception`, so `except Exception` does not catch it."""


class Stopped(Interrupt, KeyboardInterrupt):
    """The signal `number` asked this process to end. exit_code: the exit code that shells use for it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


@contextlib.contextmanager
def stoppable(*names: str) -> Iterator[None]:
    """Raise `Stopped` in the block when a signal arrives.

    names: of signals, for example SIGTERM. A signal that is ignored (`nohup`) or has a handler is left alone, and so
    are all outside the main thread.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
    default = (signal.SIG_DFL, signal.default_int_handler)
    replaced = {number: handler for number, handler in before.items() if handler in default}
    for number in replaced:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Run plugin code in the block, and restore the working folder after it. What would end this process, like
    `sys.exit()`, raises `PluginError`; other exceptions pass."""
    try:
        with _same_folder():
            yield
    except (Exception, Interrupt):
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and _user_may_interrupt():
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        action = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {_shown(error)}"
        where = f"{Path(at.filename).name}:{at.lineno}"
        raise PluginError(f"plugin code {action} at {where}, which would end the process: raise an error") from error


def _shown(error: BaseException) -> str:
    try:
        return f"{error!r:.200}"
    except BaseException:  # of a plugin's own class
        return type(error).__name__


def _user_may_interrupt() -> bool:
    """Whether Ctrl-C raises a plain `KeyboardInterrupt` in this thread."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) not in (_stop, signal.SIG_IGN)


@contextlib.contextmanager
def _same_folder() -> Iterator[None]:
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(folder)
