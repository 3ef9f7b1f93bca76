"""A process that has never held anything but libraries, and forks a child for each call of a defense.

It is started once for each worker. It imports the libraries that a call needs, not the plugin's own modules, so that a
child is ready at once and no plugin code has run in its parent. A call crosses over as a file of torch, of objects that
the harness made; what comes back are files of tensors and of numbers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import pickletools
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from harness import source
from harness.errors import PluginError, RunError
from harness.execution import child, determinism, surroundings
from harness.package_data import data_folders

CALL = "call.pt"
PRIVATE = "IMMUNEBENCH_"
"""Start of the names of environment variables that a defense does not see, of those that other plugins may."""
_CODE = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from harness.execution.server import serve
serve(int(sys.argv[1]))
"""

_lock = threading.Lock()
_server: _Server | None = None


def possible() -> bool:
    """Whether such a process can be started here."""
    return sys.platform == "linux"


def run(call: Any, folder: Path, covered: Mapping[str, Path]) -> None:
    """Call `call.run_alone(folder)` in a child of the server.

    call: can be pickled. folder: empty. covered: the modules of the plugin by name (see `harness.source.closure`),
    which only the child may import. Raises `PluginError` as `child.call` does.
    """
    torch.save(call, folder / CALL, pickle_protocol=5)
    needed = _modules(folder / CALL) | source.libraries(covered.values())
    request = {
        "folder": str(folder),
        "path": sys.path,
        "modules": sorted(name for name in needed if not _is_covered(name, covered)),
        "closed": [str(path) for path in (*child.private, *data_folders())],
        "memory": child.memory(),
    }
    with _lock:
        _started().ask(request)


def start() -> None:
    """Start the server, if there is none, and wait until it is ready."""
    with _lock:
        _started()


def _started() -> _Server:
    global _server
    if _server is None or not _server.alive:
        _server = _Server()
    return _server


def _modules(file: Path) -> set[str]:
    """The modules of the classes and functions in a file of torch."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        operations = pickletools.genops(archive.read(name))
        return {text for _, text, _ in operations if isinstance(text, str) and text in sys.modules}


def _is_covered(name: str, covered: Iterable[str]) -> bool:
    """Whether `name` is a module of a plugin."""
    top = name.partition(".")[0]
    return name in covered or (top != "harness" and top in source.plugin_packages())


class _Server:
    """The process, seen from the worker that has started it."""

    def __init__(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        environ = {name: value for name, value in child.environment().items() if not name.startswith(PRIVATE)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                env={**environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._connection, self._worker = ours, os.getpid()
        atexit.register(self.close)
        self._received()

    @property
    def alive(self) -> bool:
        """Whether it can be asked, by this process."""
        return self._worker == os.getpid() and not self._connection.closed and self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send a request and wait until it is done; raises `PluginError`."""
        with contextlib.suppress(OSError):  # it has died
            self._connection.send_bytes(json.dumps(request).encode())
        if answer := self._received():
            raise (child.Killed if answer["killed"] else PluginError)(answer["failure"])

    def _received(self) -> dict[str, Any] | None:
        """Wait for its answer: the first one tells that it is ready."""
        try:
            while not self._connection.poll(child.POLL_SECONDS):
                pass
            answer: dict[str, Any] | None = json.loads(self._connection.recv_bytes(child.LONGEST))
            return answer
        except (EOFError, OSError):
            self.close()
            raise child.Killed("the process that starts defenses has died") from None
        except BaseException:  # a time limit, or Ctrl-C
            self.close()
            raise

    def close(self) -> None:
        """End the process and its child."""
        if self._worker == os.getpid():
            self._connection.close()
            self._process.kill()
            self._process.wait()


def serve(descriptor: int) -> None:
    """Answer the requests that come over the socket `descriptor`, until its other end is closed."""
    connection: Connection = Connection(descriptor)
    child.end_with_parent()
    warm_up()
    connection.send_bytes(b"null")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        sys.path[:] = request["path"]
        for name in request["modules"]:
            with contextlib.suppress(Exception):  # the child says what it misses
                importlib.import_module(name)
        connection.send_bytes(json.dumps(_answer(request, connection)).encode())


@functools.cache
def warm_up() -> None:
    """Do once in this process what each child of it would do again: search for plugin packages, and import what a call
    and the first optimiser of torch need.

    It starts no thread, which a fork would lose. So it takes no step of the optimiser, which would count the GPUs, and
    no backward pass, which would start a thread for each of them; both are as fast without.
    """
    source.plugin_packages()
    importlib.import_module("safetensors.torch")
    with determinism.isolated(0):
        surroundings.read(alone=True)
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def _answer(request: Mapping[str, Any], connection: Connection) -> dict[str, Any] | None:
    """Call in a child; None if all went well, else the failure."""
    folder = Path(request["folder"])
    closed = child.Closed(to_reading=request["closed"], but=[str(folder)])

    def call() -> str:
        connection.close()
        torch.load(folder / CALL, weights_only=False).run_alone(folder)  # the harness wrote the file
        return ""

    try:
        child.call(call, closed, request["memory"])
    except RunError as error:
        return {"killed": isinstance(error, child.Killed), "failure": str(error)}
    except OSError as error:
        return {"killed": False, "failure": f"OSError: {error}"}
    return None
