"""Runs plugin code in a forked child process: whatever the code does to its process ends with it.

One text crosses back. Files may be closed to the child: Python's audit events (PEP 578) then refuse to open, list or
change them. This stops careless code and plain cheats. It is no sandbox: compiled code can open files without an event.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import psutil

from harness.errors import PluginError
from harness.execution.failure import reason
from harness.interrupts import contained

POLL_SECONDS = 0.05
"""Time between two looks at whether a child that says nothing is alive."""
LONGEST = 2**20
"""Largest length of a child's answer, in bytes."""
RESERVE = 2**28
"""Memory that a child must leave to the machine, in bytes."""
_PR_SET_PDEATHSIG = 1


private: set[Path] = set()
"""Folders of this process that plugin code may not read: its stores."""


class Killed(PluginError):
    """A signal ended the child, which may not be the plugin's fault: the machine may have run out of memory."""


@dataclass(frozen=True)
class Closed:
    """Folders and files that are closed to a child.

    to_reading: it may neither read nor change what is in them. to_writing: it may not change it. but: folders within
    them that are open.
    """

    to_reading: Sequence[str] = ()
    to_writing: Sequence[str] = ()
    but: Sequence[str] = ()

    def refuse(self) -> None:
        """Refuse access for the rest of this process."""
        parts = (self.but, self.to_reading, self.to_writing)
        own, reading, writing = (tuple(map(os.path.realpath, part)) for part in parts)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            changes, paths = event in _CHANGING, arguments
            if event == "open":
                changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
                paths = arguments[:1]
            elif event in ("os.kill", "os.killpg"):
                _check_target(arguments[0])
                return
            elif not changes:
                return
            for path in paths:
                if isinstance(path, str | bytes | os.PathLike):
                    place = os.path.realpath(os.fsdecode(path))
                    if _within(place, own):
                        continue
                    if _within(place, reading) or (changes and _within(place, writing)):
                        raise PluginError(f"plugin code may not {'change' if changes else 'read'} {place}")

        sys.addaudithook(hook)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, which are not the plugin's."""
_CHANGING = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "os.utime", "shutil.rmtree", "shutil.move",
}  # fmt: skip


def _check_target(pid: int) -> None:
    """Raise `PluginError` if plugin code sends a signal to a process `pid` that is not its own."""
    try:
        own = pid > 0 and os.getsid(pid) == os.getsid(0)
    except ProcessLookupError:
        return
    if not own:
        raise PluginError("plugin code may not send signals to other processes")


def _within(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}{os.sep}") for folder in folders)


def possible(gpu: bool = False) -> bool:
    """Whether this process can be forked: on Linux, unless it uses a GPU. gpu: whether the child is to use one, which
    it cannot if this process has the libraries and caches of a GPU."""
    torch = sys.modules.get("torch")
    uses = torch is not None and (torch.cuda.is_initialized() or (gpu and torch.cuda.is_available()))
    return sys.platform == "linux" and not uses


def call(function: Callable[[], str], closed: Closed = Closed(), limit: int | None = None) -> str:
    """The text that `function` returns, called in a child of this process.

    The child has a new working folder, default signals, no standard input, and its output goes to the standard error.
    Processes that it leaves are ended with it. closed: what it may not open. limit: bytes that it may allocate; None:
    see `memory`. Raises `PluginError` with one line if the function raises or if the process ends
    early; `Killed` if a signal ends it.
    """
    parent, ours, theirs = os.getpid(), *multiprocessing.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="immunebench-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the child calls none of them
            pid = os.fork()
        if not pid:
            _run(function, theirs, folder, closed, memory() if limit is None else limit, parent)
        theirs.close()
        status = None
        try:
            while status is None and not ours.poll(POLL_SECONDS):
                ended, code = os.waitpid(pid, os.WNOHANG)
                status = code if ended else None
            answer = _received(ours)
        finally:
            ours.close()
            _kill(pid)
            status = os.waitpid(pid, 0)[1] if status is None else status
    if answer is not None and "result" in answer:
        return str(answer["result"])
    if answer is not None:
        if (number := answer.get("errno")) in _FULL:
            raise OSError(number, os.strerror(number), answer.get("file"))
        raise PluginError(str(answer.get("failure")))
    if os.WIFSIGNALED(status):
        raise Killed(f"its process was ended by {signal.Signals(os.WTERMSIG(status)).name}")
    raise PluginError(f"plugin code ended its process with exit code {os.WEXITSTATUS(status)}: raise an error")


def _received(connection: Connection) -> dict[str, Any] | None:
    """The child's answer; None if it gave none."""
    if not connection.poll(0):
        return None
    try:
        answer = json.loads(connection.recv_bytes(LONGEST))
    except (EOFError, OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _kill(pid: int) -> None:
    """Kill the processes of the group of the child `pid`, also if it has ended itself."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has no group yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _run(
    function: Callable[[], str], answer: Connection, folder: str, closed: Closed, limit: int, parent: int
) -> NoReturn:
    """Be the child."""
    try:
        try:
            _prepare(folder, limit, parent)
            closed.refuse()
            with contained():
                message: dict[str, Any] = {"result": function()}
        except BaseException as error:
            message = {"failure": reason(error)}
            if isinstance(error, OSError):
                message |= {"errno": error.errno, "file": str(error.filename)}
        answer.send_bytes(json.dumps(message).encode())
        while True:
            time.sleep(60)  # the parent ends this process with all others of its group
    finally:
        os._exit(0)


def _prepare(folder: str, limit: int, parent: int) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    gc.freeze()  # a collection would visit, and so copy, the parent's memory
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    used = psutil.Process().memory_info().data
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (open as long as the process lives)
    sys.stdout = sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    sys.dont_write_bytecode = True
    os.chdir(folder)


def memory() -> int:
    """Bytes that a child may allocate: what the machine has available, less a reserve."""
    return max(RESERVE, psutil.virtual_memory().available - RESERVE)
