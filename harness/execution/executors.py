"""Where jobs run: in this process or in local worker processes (for a cluster see `dask_cluster`)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any, Protocol

from harness.errors import UsageError
from harness.execution import gpu as gpus


class Executor(Protocol):
    """Runs functions, which must not raise: a future that raises tells that its worker died.

    separate: workers are processes of their own, which a time limit may end.
    """

    separate: bool

    @property
    def workers(self) -> int:
        """How many jobs run at once."""

    def submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Future[Any]:
        """Start `function(*arguments)` on a worker. gpu: on one with a GPU, if the executor tells them apart."""

    def stop(self, at_once: bool) -> None:
        """Stop the workers. at_once: kill those that are running a job."""


class Serial:
    """Runs each job in this process, within `submit`."""

    workers = 1
    separate = False

    def submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Future[Any]:
        """Run the function now; the future is done."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def stop(self, at_once: bool) -> None:
        """Do nothing: there are no workers."""


class Processes:
    """Local worker processes of one torch thread each (two of them do more than one of two threads). gpus: GPUs of this
    machine; each worker is pinned to one, which others share if there are more workers."""

    separate = True

    def __init__(self, workers: int, gpus: int = 0) -> None:
        self.workers = workers
        self._gpus = gpus
        self._pool = self._start()

    def _start(self) -> Any:
        from loky import ProcessPoolExecutor

        # Workers cache base models and encoders; loky would restart them for a memory leak.
        env = {"LOKY_MAX_MEMORY_LEAK_SIZE": "2e9"}
        initargs = (self._gpus, os.getpid())
        return ProcessPoolExecutor(
            max_workers=self.workers, initializer=_prepare_worker, initargs=initargs, timeout=None, env=env
        )

    def submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Future[Any]:
        """Send the function to a worker, after starting new workers if one has died."""
        try:
            future: Future[Any] = self._pool.submit(function, *arguments)
        except BrokenExecutor:
            self._pool = self._start()
            future = self._pool.submit(function, *arguments)
        return future

    def stop(self, at_once: bool) -> None:
        """Stop the workers. at_once: kill them; what they were writing stays in the store's temporary folder."""
        self._pool.shutdown(wait=True, kill_workers=at_once)


def local(workers: int | None = None, gpu: bool = False, separate: bool = False) -> Executor:
    """The executor for `workers` local workers (default: one for each GPU, else one for each core). gpu: require a GPU.
    separate: also a single worker is a process of its own. Raises `UsageError` if a GPU is required and there is
    none."""
    found = gpus.count()
    if gpu and not found:
        raise UsageError("torch finds no GPU on this machine: run without --gpu, or on a --cluster")
    workers = workers or default_workers()
    return Serial() if workers == 1 and not separate else Processes(workers, found)


def choose(
    workers: int | None = None,
    cluster: str | None = None,
    gpu: bool = False,
    say: Callable[[str], None] = lambda line: None,
    separate: bool = False,
) -> Executor:
    """The executor for local workers, or for the Dask `cluster` with that address; see `local` and
    `dask_cluster.Cluster`. Raises `UsageError` for both."""
    if cluster is None:
        return local(workers, gpu, separate)
    if workers is not None:
        raise UsageError("--workers are local processes; a --cluster has its own workers: choose one of the two")
    from harness.execution.dask_cluster import Cluster

    return Cluster(cluster, gpu, say)


def default_workers() -> int:
    """One worker for each GPU, else one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return gpus.count() or cores


_PR_SET_PDEATHSIG = 1
PARENT_SECONDS = 1.0
"""Time between two looks at whether the parent process is alive."""


def _end_with(parent: int) -> None:
    """End this process when the process `parent`, which started it, is gone for any reason."""
    if sys.platform == "linux":  # also in a call that holds Python's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _prepare_worker(count: int, parent: int) -> None:
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    os.environ["OMP_NUM_THREADS"] = "1"
    if count:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # else its sums may differ from run to run
        gpus.claim(count)
