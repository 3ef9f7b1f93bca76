"""Jobs on a Dask cluster: an optional extra, `pip install immunebench[dask]`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from harness.errors import RunError, UsageError

GPU = "GPU"
"""The resource that a worker with a GPU offers: `dask worker ADDRESS --resources GPU=1`."""
CONNECT = 30
"""Seconds to reach a scheduler."""


class Cluster:
    """Runs jobs on the workers of a Dask scheduler, which must see the store under the same path.

    address: of the scheduler, or `local:N` to start N processes here. gpu: jobs that a GPU speeds up go to workers that
    offer the resource GPU alone. Waits for a first worker, and `say`s so. Raises `UsageError` if Dask is not installed,
    no scheduler is reached, or no worker offers what is asked for.
    """

    separate = True

    def __init__(self, address: str, gpu: bool = False, say: Callable[[str], None] = lambda line: None) -> None:
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError:
            raise UsageError("--cluster needs Dask: pip install 'immunebench[dask]'") from None
        # A data loader of a plugin may start processes of its own; the runner itself decides what is tried again.
        settings = {"distributed.worker.daemon": False, "distributed.scheduler.allowed-failures": 0,
                    "distributed.comm.timeouts.connect": CONNECT}  # fmt: skip
        self._cleanup = contextlib.ExitStack()
        self._cleanup.enter_context(dask.config.set(settings))
        try:
            scheduler: Any = address
            if address.startswith("local:"):
                scheduler = self._cleanup.enter_context(
                    LocalCluster(n_workers=_count(address), threads_per_worker=1, dashboard_address=":0")
                )
            self._client = self._cleanup.enter_context(Client(scheduler, timeout=CONNECT, set_as_default=False))
        except (OSError, ValueError) as error:
            self._cleanup.close()
            raise UsageError(f"no Dask scheduler answers at {address}: {error}") from None
        if not self._workers():
            say("waiting for the cluster's first worker")
            self._client.wait_for_workers(1)
        offers = [worker.get("resources", {}) for worker in self._workers().values()]
        if gpu and not any(GPU in offer for offer in offers):
            self._cleanup.close()
            raise UsageError(f"none of the cluster's {len(offers)} workers offers the resource {GPU}: start one by "
                             f"`dask worker {address} --resources {GPU}=1`, or run without --gpu")  # fmt: skip
        self._counted = float("-inf"), 0
        self._anywhere = self._client.get_executor(pure=False, retries=0)
        self._on_gpu = self._client.get_executor(pure=False, retries=0, resources={GPU: 1} if gpu else None)

    def _workers(self) -> dict[str, Any]:
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return workers

    @property
    def workers(self) -> int:
        """Threads of all workers that were there at most a second ago; at least one."""
        if time.monotonic() - self._counted[0] > 1:
            self._counted = time.monotonic(), sum(worker["nthreads"] for worker in self._workers().values())
        return max(1, self._counted[1])

    def submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Future[Any]:
        """Send it to a worker. Raises `RunError` if the scheduler is gone."""
        if self._client.status not in ("running", "connecting"):
            raise RunError("the cluster's scheduler is gone; what is finished is kept: run the same command again")
        future: Future[Any] = (self._on_gpu if gpu else self._anywhere).submit(function, *arguments)
        return future

    def stop(self, at_once: bool) -> None:
        """Give back what is in hand, and end the workers that were started here."""
        for executor in (self._anywhere, self._on_gpu):
            executor.shutdown(wait=False)
        self._cleanup.close()


def _count(address: str) -> int:
    number = address.removeprefix("local:")
    if not number.isdigit() or int(number) < 1:
        raise UsageError(f"--cluster {address}: write the address of a scheduler, or local:N for N processes here")
    return int(number)
