"""Carries out a plan on an executor, keeping every finished job in the store.

An executor is anything with `submit(function, *arguments) -> concurrent.futures.Future`, a number of `workers` and
`stop(at_once)`; workers are sent jobs and a store's path, never weights.
"""

from __future__ import annotations

import heapq
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from harness.catalogue import Catalogue
from harness.errors import ImmuneBenchError, RunError
from harness.plan import Job, Plan
from harness.plugin import Track
from harness.store import Store, StoreError


@dataclass(frozen=True)
class Outcome:
    """How a job ended. reason: why it failed, one line; None if it did not. fatal: the run cannot go on.
    lost: its worker died, which may not be the job's fault."""

    key: str
    reason: str | None = None
    fatal: bool = False
    lost: bool = False


class Executor(Protocol):
    """Where jobs run."""

    workers: int

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start `function(*arguments)` somewhere."""

    def stop(self, at_once: bool) -> None:
        """End; `at_once`: whatever is in hand."""


class Serial:
    """Runs each job in this process, when it is submitted."""

    workers = 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run it now; the future is done."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def stop(self, at_once: bool) -> None:
        """Nothing is left behind."""


class Processes:
    """Local worker processes with one torch thread each; two such beat two threads in one."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = self._start()

    def _start(self) -> Any:
        from loky import ProcessPoolExecutor

        # A worker keeps the base and the encoders, which loky would take for a leak and start it anew.
        env = {"LOKY_MAX_MEMORY_LEAK_SIZE": "2e9"}
        return ProcessPoolExecutor(max_workers=self.workers, initializer=_prepare_worker, timeout=None, env=env)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Send it to a worker; new ones are started where one has died."""
        try:
            return self._pool.submit(function, *arguments)
        except BrokenExecutor:
            self._pool = self._start()
            return self._pool.submit(function, *arguments)

    def stop(self, at_once: bool) -> None:
        """End the workers; killed, they leave half-written artifacts in the store's temporary folder, unseen."""
        self._pool.shutdown(wait=True, kill_workers=at_once)


def local(workers: int | None = None) -> Executor:
    """The executor for `workers` local workers (default: one a core)."""
    workers = workers or default_workers()
    return Serial() if workers == 1 else Processes(workers)


def default_workers() -> int:
    """One a core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    os.environ["OMP_NUM_THREADS"] = "1"


def ensure(job: Job, store: Store) -> Path:
    """The job's artifact, computed if it is not there, and before it whatever parent was dropped or damaged."""
    folder = store.open(job.key)
    if folder is None:
        parents = {role: ensure(parent, store) for role, parent in job.parents.items()}
        with store.writing(job.key, job.about) as out:
            _track(job.track).carry_out(job, parents, out)
        folder = store.folder(job.key)
    return folder


@cache
def _track(name: str) -> Track:
    return Catalogue().track(name)


def perform(job: Job, root: Path) -> Outcome:
    """`ensure` for a worker: no exception of a job leaves it."""
    try:
        ensure(job, Store(root))
    except StoreError as error:
        return Outcome(job.key, str(error), fatal=True)
    except ImmuneBenchError as error:
        return Outcome(job.key, str(error))
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        text = " ".join(str(error).split())
        return Outcome(job.key, f"{type(error).__name__} at {where}: {text}"[:500])
    return Outcome(job.key)


@dataclass
class Progress:
    """What a run tells while it goes on; the default tells nothing."""

    total: int = 0
    shared: int = 0
    started: Callable[[Job], None] = field(default=lambda job: None)
    finished: Callable[[Job, Outcome], None] = field(default=lambda job, outcome: None)


def run(
    plan: Plan, store: Store, executor: Executor, progress: Progress | None = None, keep: bool = False
) -> dict[str, str]:
    """Carry out what is missing of `plan`; the reasons of the jobs that failed, by key.

    A job whose parent failed takes over its reason. keep: do not drop transient artifacts. Raises `RunError` if
    the store gives out. On KeyboardInterrupt the executor is stopped and what is finished stays.
    """
    progress = progress or Progress()
    missing = plan.missing(store)
    state = _State(missing)
    progress.total, progress.shared = len(missing), len(plan.jobs) - len(missing)
    running: dict[Future[Outcome], Job] = {}
    suspects: list[Job] = []  # in hand when a worker died: run again one by one, to find whose fault it was
    failed: dict[str, str] = {}

    def end(job: Job, outcome: Outcome) -> None:
        if outcome.reason is not None:
            failed[job.key] = outcome.reason
        for parent in state.done(job):
            if parent.transient and not keep:
                store.discard(parent.key)
        progress.finished(job, outcome)

    try:
        while state.ready or running or suspects:
            while len(running) < _in_hand(executor, suspects) and (suspects or state.ready):
                job = suspects.pop() if suspects else state.next()
                reason = next((failed[p.key] for p in job.parents.values() if p.key in failed), None)
                if reason is not None:
                    end(job, Outcome(job.key, reason))
                    continue
                progress.started(job)
                running[executor.submit(perform, job, store.root)] = job
            alone = len(running) == 1
            done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), None)
            for future in done:
                job = running.pop(future)
                outcome = _outcome(future, job)
                if outcome.fatal:
                    raise RunError(str(outcome.reason))
                if outcome.lost and not alone:
                    suspects.append(job)
                else:
                    end(job, outcome)
    finally:
        executor.stop(at_once=bool(running))
    return failed


def _in_hand(executor: Executor, suspects: list[Job]) -> int:
    """How many jobs to have submitted: one where one runs at once, else enough to keep every worker busy."""
    return 1 if suspects or executor.workers == 1 else 2 * executor.workers


def _outcome(future: Future[Outcome], job: Job) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # the worker itself died
        return Outcome(job.key, f"its worker process died ({type(error).__name__})", lost=True)


class _State:
    """Which jobs are ready, in the plan's order, and which parents no job waits for any more."""

    def __init__(self, missing: Mapping[str, Job]) -> None:
        self._order = {key: index for index, key in enumerate(missing)}
        self._jobs = list(missing.values())
        self._waits = {key: len(self._parents(job)) for key, job in missing.items()}
        self._children: dict[str, list[Job]] = {key: [] for key in missing}
        for job in missing.values():
            for parent in self._parents(job):
                self._children[parent].append(job)
        self._readers = {key: len(children) for key, children in self._children.items()}
        self.ready = [self._order[key] for key, count in self._waits.items() if count == 0]

    def _parents(self, job: Job) -> set[str]:
        return {parent.key for parent in job.parents.values() if parent.key in self._order}

    def next(self) -> Job:
        return self._jobs[heapq.heappop(self.ready)]

    def done(self, job: Job) -> list[Job]:
        """Free the job's children; the parents that it was the last to read."""
        for child in self._children[job.key]:
            self._waits[child.key] -= 1
            if self._waits[child.key] == 0:
                heapq.heappush(self.ready, self._order[child.key])
        read = []
        for parent in self._parents(job):
            self._readers[parent] -= 1
            if self._readers[parent] == 0:
                read.append(self._jobs[self._order[parent]])
        return read
