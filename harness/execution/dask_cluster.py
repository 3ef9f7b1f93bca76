"""Jobs on a Dask cluster: an optional extra, `pip install immunebench[dask]`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from harness.errors import RunError, UsageError

GPU = "GPU"
"""The resource that marks a worker with a GPU: `dask worker ADDRESS --resources GPU=1`."""
CONNECT_SECONDS = 30
"""Time limit to reach a scheduler."""


class Cluster:
    """Runs jobs on the workers of a Dask scheduler, which must reach the store under the same path.

    address: of the scheduler, or `local:N` to start N processes here. gpu: send GPU jobs to workers with the resource
    GPU only. say: called with a line while the cluster has no worker; the first worker is waited for. Raises
    `UsageError` if Dask is not installed, the scheduler does not answer, or `gpu` is set and no worker has a GPU.
    """

    separate = True

    def __init__(self, address: str, gpu: bool = False, say: Callable[[str], None] = lambda line: None) -> None:
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError:
            raise UsageError("--cluster needs Dask: pip install 'immunebench[dask]'") from None
        settings = {
            "distributed.worker.daemon": False,  # a plugin's data loader may start processes
            "distributed.scheduler.allowed-failures": 0,  # the run's scheduler decides on repeats
            "distributed.comm.timeouts.connect": CONNECT_SECONDS,
        }
        self._say = say
        self._cleanup = contextlib.ExitStack()
        for name in ("distributed", "distributed.client"):  # the run itself says in one line what is wrong
            logger = logging.getLogger(name)
            self._cleanup.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        self._cleanup.enter_context(dask.config.set(settings))
        try:
            scheduler: Any = address
            if address.startswith("local:"):
                scheduler = self._cleanup.enter_context(
                    LocalCluster(n_workers=_process_count(address), threads_per_worker=1, dashboard_address=":0")
                )
            self._client = self._cleanup.enter_context(Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            self._cleanup.close()
            raise UsageError(f"no Dask scheduler answers at {address}: {error}") from None
        if not self._workers():
            say("waiting for the cluster's first worker")
            self._client.wait_for_workers(1)
        resources = [worker.get("resources", {}) for worker in self._workers().values()]
        if gpu and not any(GPU in resource for resource in resources):
            self._cleanup.close()
            raise UsageError(
                f"none of the cluster's {len(resources)} workers has the resource {GPU}: start one by "
                f"`dask worker {address} --resources {GPU}=1`, or run without --gpu"
            )
        self._counted_at, self._threads = float("-inf"), 0
        self._any_worker = self._client.get_executor(pure=False, retries=0)
        self._gpu_worker = self._client.get_executor(pure=False, retries=0, resources={GPU: 1} if gpu else None)

    def _workers(self) -> dict[str, Any]:
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return workers

    @property
    def workers(self) -> int:
        """Threads of all workers, counted at most once a second; at least one."""
        if time.monotonic() - self._counted_at > 1:
            self._counted_at = time.monotonic()
            before, self._threads = self._threads, sum(worker["nthreads"] for worker in self._workers().values())
            if before and not self._threads:
                self._say("the cluster has no worker left; jobs wait for a new one")
        return max(1, self._threads)

    def submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Future[Any]:
        """Send `function(*arguments)` to a worker. Raises `RunError` if the scheduler is gone."""
        if self._client.status not in ("running", "connecting"):
            raise RunError("the cluster's scheduler is gone; finished jobs are kept: run the same command again")
        future: Future[Any] = (self._gpu_worker if gpu else self._any_worker).submit(function, *arguments)
        return future

    def stop(self, at_once: bool) -> None:
        """Cancel what is submitted, and end the workers that were started here."""
        for executor in (self._any_worker, self._gpu_worker):
            executor.shutdown(wait=False)
        self._cleanup.close()


def _process_count(address: str) -> int:
    number = address.removeprefix("local:")
    if not number.isdigit() or int(number) < 1:
        raise UsageError(f"--cluster {address}: give the address of a scheduler, or local:N for N processes here")
    return int(number)
