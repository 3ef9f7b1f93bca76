"""Runs plugin code in a forked child process: whatever the code does to its process ends with it.

One text crosses back. The parent ends all processes that the child leaves behind.

Files may be closed to the child: Python's audit events (PEP 578) then refuse to open, list or change them. This stops
careless code and plain cheats. It is no sandbox: compiled code can open files without an event, a path may be relative
to an open folder, the existence and size of a file can be asked for, and code that searches Python's own objects can
find and change the hook.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import multiprocessing
import os
import re
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
from harness.execution.surroundings import children
from harness.interrupts import contained

POLL_SECONDS = 0.05
"""Time between two looks at whether a child that says nothing is alive."""
LONGEST = 2**20
"""Largest length of a child's answer, in bytes."""
RESERVE = 2**28
"""Memory that a child must leave to the machine, in bytes."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

private: set[Path] = set()
"""Folders of this process that plugin code may not read: its stores."""
_running: set[int] = set()
"""Process ids of the children of this process, one for each call in progress."""


class Killed(PluginError):
    """A signal ended the child, which may not be the plugin's fault: the machine may have run out of memory."""


class Refused(PluginError, PermissionError):
    """A program may not be started. Libraries that can do without it take this for an error of the system."""


@dataclass(frozen=True)
class Closed:
    """Folders and files that are closed to a child.

    to_reading: it may neither read nor change what is in them, nor start programs, which could. to_writing: it may not
    change it. but: folders within them that are open.
    """

    to_reading: Sequence[str] = ()
    to_writing: Sequence[str] = ()
    but: Sequence[str] = ()

    def refuse(self) -> None:
        """Refuse access for the rest of this process."""
        sys.addaudithook(self.hook())

    def hook(self) -> Callable[[str, tuple[Any, ...]], None]:
        """The audit hook that refuses access. It holds all that it uses, because plugin code may replace what modules
        hold."""
        parts = (self.but, self.to_reading, self.to_writing)
        own, reading, writing = (tuple(f"{os.path.realpath(path)}{os.sep}" for path in part) for part in parts)
        real, decoded, session, separator, kinds = os.path.realpath, os.fsdecode, os.getsid, os.sep, _PATH
        changing, listing, programs, write = _CHANGING, _LISTING, _PROGRAMS, _WRITE
        fault, refused = PluginError, Refused

        def check_target(pid: int) -> None:
            try:
                allowed = pid > 0 and session(pid) == session(0)
            except ProcessLookupError:
                return
            if not allowed:
                raise fault("plugin code may not send signals to other processes")

        def check_path(path: Any, changes: bool) -> None:
            place = real(decoded(path))
            inside = f"{place}{separator}"
            if inside.startswith(own):
                return
            secret = place.startswith("/proc/") and place.endswith("/environ")
            if secret or inside.startswith(reading) or (changes and inside.startswith(writing)):
                raise fault(f"plugin code may not {'change' if changes else 'read'} {place}")

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open":
                changes, paths = bool(arguments[2] & write), arguments[:1]
            elif event in listing:
                changes, paths = False, (arguments[0] or ".",)
            elif event in changing:
                changes, paths = True, arguments
            elif event in ("os.kill", "os.killpg"):
                return check_target(arguments[0])
            elif event in programs and reading:
                raise refused("plugin code may not start programs")
            else:
                return
            for path in paths:
                if isinstance(path, kinds):
                    check_path(path, changes)

        return hook


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, which are not the plugin's."""
_PATH = (str, bytes, os.PathLike)
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LISTING = frozenset({"os.listdir", "os.scandir"})
_CHANGING = frozenset({
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "os.utime", "shutil.rmtree", "shutil.move",
})  # fmt: skip
_PROGRAMS = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pty.spawn"})

_ENVIRONMENT = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|COLUMNS|NO_COLOR|LANG|LANGUAGE|TZ|TMP|TEMP|TMPDIR|VIRTUAL_ENV|PYTHON\w*"
    r"|(LC|LD|XDG|CONDA|OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR|CUDA|CUBLAS|CUDNN|NVIDIA|HIP|ROCR|TORCH|TORCHINDUCTOR"
    r"|PYTORCH|TRITON|HF|HUGGINGFACE|TRANSFORMERS|DIFFUSERS|SCIKIT_LEARN|SSL_CERT|IMMUNEBENCH)_\w+"
    r"|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(HTTPS?|ALL|NO)_PROXY",
    re.IGNORECASE,
)
"""Names of environment variables that plugin code may see."""
_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|KEY", re.IGNORECASE)
"""Parts of names of those that it may not."""


def environment() -> dict[str, str]:
    """The environment variables that plugin code may see: folders, the language, and settings of libraries; nothing
    else, so that no token of the user's is among them."""
    return {
        name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name) and not _SECRET.search(name)
    }


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
    see `memory`. Raises `PluginError` with one line if the function raises or if the process ends early; `Killed` if a
    signal ends it.
    """
    parent, ours, theirs = os.getpid(), *multiprocessing.Pipe(duplex=False)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # this process adopts what the child leaves
    with tempfile.TemporaryDirectory(prefix="immunebench-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the child calls none of them
            pid = os.fork()
        if not pid:
            _run(function, theirs, folder, closed, memory() if limit is None else limit, parent)
        theirs.close()
        _running.add(pid)
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
            _running.remove(pid)
            _end_orphans()
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


def _end_orphans() -> None:
    """End the processes that children have left, also in groups and sessions of their own: those with another limit of
    memory than this process, which they inherit from a child."""
    own = _limit(os.getpid())
    while orphans := [pid for pid in children() - _running if _limit(pid) not in (own, None)]:
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _limit(pid: int) -> tuple[int, int] | None:
    """The limit of memory of the process `pid`; None if it is gone or may not be asked."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_DATA)
    except OSError:
        return None


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that has started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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
            time.sleep(60)  # the parent ends this process with all that it has left
    finally:
        os._exit(0)


def _prepare(folder: str, limit: int, parent: int) -> None:
    os.setsid()
    end_with_parent()
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
    for name in os.environ.keys() - environment().keys():
        del os.environ[name]
    os.chdir(folder)


def memory() -> int:
    """Bytes that a child may allocate: what the machine has available, less a reserve."""
    return max(RESERVE, psutil.virtual_memory().available - RESERVE)
