"""Where jobs run: this process, local processes, or a cluster (see `cluster`)."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from harness.errors import UsageError

_held: list[FileLock] = []
"""Locks that this process keeps until it ends."""


class Executor(Protocol):
    """Where jobs run. A future that raises has lost its worker, for what it is given raises nothing itself.

    separate: its workers are processes of their own, which can be ended one by one."""

    separate: bool

    @property
    def workers(self) -> int:
        """How many jobs run at once."""

    def submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Future[Any]:
        """Start `function(*arguments)` somewhere; `gpu`: where there is one."""

    def stop(self, at_once: bool) -> None:
        """End; `at_once`: whatever is in hand."""


class Serial:
    """Runs each job in this process, when it is submitted."""

    workers = 1
    separate = False

    def submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Future[Any]:
        """Run it now; the future is done."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def stop(self, at_once: bool) -> None:
        """Nothing is left behind."""


class Processes:
    """Local worker processes with one torch thread each, for two such beat two threads in one; where there are GPUs,
    each has one of them to itself."""

    separate = True

    def __init__(self, workers: int, gpus: int = 0) -> None:
        self.workers = workers
        self._gpus = gpus
        self._pool = self._start()

    def _start(self) -> Any:
        from loky import ProcessPoolExecutor

        # A worker keeps the base and the encoders, which loky would take for a leak and start it anew.
        env = {"LOKY_MAX_MEMORY_LEAK_SIZE": "2e9"}
        return ProcessPoolExecutor(
            max_workers=self.workers, initializer=_prepare_worker, initargs=(self._gpus,), timeout=None, env=env
        )

    def submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Future[Any]:
        """Send it to a worker; new ones are started where one has died."""
        try:
            future: Future[Any] = self._pool.submit(function, *arguments)
        except BrokenExecutor:
            self._pool = self._start()
            future = self._pool.submit(function, *arguments)
        return future

    def stop(self, at_once: bool) -> None:
        """End the workers; killed, they leave half-written artifacts in the store's temporary folder, unseen."""
        self._pool.shutdown(wait=True, kill_workers=at_once)


def local(workers: int | None = None, gpu: bool = False) -> Executor:
    """The executor for `workers` local workers (default: one a GPU, else one a core). gpu: raises `UsageError` where
    there is none."""
    gpus = _gpus()
    if gpu and not gpus:
        raise UsageError("no GPU is in reach of torch on this machine: run without --gpu, or on a --cluster")
    if gpus and workers and workers > gpus:
        raise UsageError(f"{workers} workers asked for and {gpus} GPUs found: one worker a GPU at most")
    workers = workers or default_workers()
    return Serial() if workers == 1 else Processes(workers, gpus)


def default_workers() -> int:
    """One a GPU, else one a core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _gpus() or cores


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _prepare_worker(gpus: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    os.environ["OMP_NUM_THREADS"] = "1"
    if gpus:
        claim_gpu(gpus)


def claim_gpu(gpus: int) -> None:
    """Let CUDA, before it has begun, see one of `gpus` GPUs alone for as long as this process lives: the first that no
    worker of any run on this machine holds, or any if all are held."""
    devices = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[os.getpid() % len(devices)]
    for device in devices:
        lock = FileLock(Path(tempfile.gettempdir()) / f"immunebench-gpu-{device}.lock", mode=0o666)
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            _held.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            return
