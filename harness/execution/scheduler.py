"""Carries out a plan on an executor, keeping every finished job in the store.

Workers are sent jobs and where the store is, never weights.
"""

from __future__ import annotations

import heapq
import time
import traceback
from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from harness.errors import ImmuneBenchError, RunError
from harness.execution import deadline, meter
from harness.execution.costs import Costs
from harness.execution.executors import Executor
from harness.plan import Job, Plan
from harness.plugin import Track
from harness.registry import Catalogue
from harness.store import Busy, Store, StoreError

PATIENCE = 0.5
"""Seconds between two looks at what another run has in hand."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended. reason: why it failed, one line; None if it did not. fatal: the run cannot go on. busy: another
    run has it in hand. lost: its worker died, which may not be the job's fault. seconds, peak_mb: what it took, and the
    highest resident memory of its worker in MiB; None where it was not computed here."""

    key: str
    reason: str | None = None
    fatal: bool = False
    busy: bool = False
    lost: bool = False
    seconds: float | None = None
    peak_mb: float | None = None


def ensure(job: Job, store: Store, plugins: tuple[Path, ...] = (), wait: bool = True) -> Path:
    """The job's artifact, computed if it is not there, and before it whatever parent was dropped or damaged.

    plugins: files, one of which may hold the job's track. What another process is computing is waited for; `wait`
    False: of the job itself raise `Busy` instead.
    """
    folder = store.open(job.key)
    if folder is None:
        parents = {role: ensure(parent, store, plugins) for role, parent in job.parents.items()}
        with store.writing(job.key, about := dict(job.about), wait) as out:
            if out is not None:
                _true_to_plan(job)
                _track(job.track, plugins).carry_out(job, parents, out)
                about["peak_mb"] = meter.peak_mb()
        folder = store.folder(job.key)
    return folder


@cache
def _track(name: str, plugins: tuple[Path, ...]) -> Track:
    return Catalogue(plugins).track(name)


def _true_to_plan(job: Job) -> None:
    """Refuse a plugin whose source is not the one in the job's key: here another version is installed, or a file of it
    was edited while the run went on."""
    plugin = job.plugin
    if plugin is not None and (found := plugin.build().source()) != plugin.source:
        raise RunError(
            f"{plugin.kind} '{plugin.name}' has another source here ({found[:8]}) than in the plan "
            f"({plugin.source[:8]}): leave it alone while a run goes on, and install the same on all workers"
        )


class Site(NamedTuple):
    """Where a run's store lies, which one it is, and the run: what a worker has checked counts for one run. plugins:
    files beside what is installed."""

    root: Path
    identity: str
    run: str
    plugins: tuple[Path, ...] = ()


@lru_cache(maxsize=1)
def _store(site: Site) -> Store:
    return Store.at(site.root, site.identity)


def perform(job: Job, site: Site, timeout: float | None = None, separate: bool = False) -> Outcome:
    """`ensure` for a worker: no exception of a job leaves it. timeout: seconds for it. separate: this process is
    there for it alone."""
    began = time.perf_counter()
    try:
        store = _store(site)
        with deadline.within(timeout, end_process=separate):
            ensure(job, store, site.plugins, wait=False)
    except Busy:
        return Outcome(job.key, busy=True)
    except StoreError as error:
        return Outcome(job.key, str(error), fatal=True)
    except ImmuneBenchError as error:
        return Outcome(job.key, str(error))
    except deadline.Passed:
        return Outcome(job.key, f"took longer than the {timeout:g} s allowed")
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        text = " ".join(str(error).split())
        return Outcome(job.key, f"{type(error).__name__} at {where}: {text}"[:500])
    return Outcome(job.key, seconds=time.perf_counter() - began, peak_mb=meter.peak_mb())


class Progress:
    """What is told of a run while it goes on; this one tells nothing."""

    def began(self, plan: Plan, missing: Mapping[str, Job], costs: Costs, workers: int) -> None:
        """These jobs are to be run; the rest of the plan need not."""

    def started(self, job: Job) -> None:
        """A job was handed to a worker, perhaps not for the first time."""

    def finished(self, job: Job, outcome: Outcome) -> None:
        """A job has ended."""

    def say(self, line: str) -> None:
        """Something else that is worth telling."""


def run(
    plan: Plan,
    store: Store,
    executor: Executor,
    progress: Progress | None = None,
    keep: bool = False,
    timeout: float | None = None,
) -> dict[str, str]:
    """Carry out what is missing of `plan`; the reasons of the jobs that failed, by key.

    A job whose parent failed takes over its reason; one whose worker dies is run once more, alone. keep: do not drop
    transient artifacts. timeout: seconds for a job. Raises `RunError` if the store gives out or the executor is gone.
    On KeyboardInterrupt the executor is stopped and what is finished stays.
    """
    progress = progress or Progress()
    running: dict[Future[Outcome], Job] = {}
    try:
        with store.needing(plan.jobs) as name:
            site = Site(store.root, store.identity, name, plan.suite.plugins)
            missing = plan.missing(store)
            progress.began(plan, missing, Costs(store.ledger()), executor.workers)
            work = _Work(missing)
            dropped: set[str] = set()

            def end(job: Job, outcome: Outcome) -> None:
                read = [of.key for of in work.done(job, outcome.reason) if of.transient and not keep]
                dropped.update(read)
                _discard(store, read, name)
                progress.finished(job, outcome)

            while work.left or running:
                while len(running) < work.at_once(executor) and (job := work.next()) is not None:
                    if (reason := work.doomed(job)) is not None:
                        end(job, Outcome(job.key, reason))
                        continue
                    progress.started(job)
                    arguments = (job, site, timeout, executor.separate)
                    running[executor.submit(perform, *arguments, gpu=job.gpu)] = job
                alone = len(running) == 1
                if not running and work.waiting:
                    time.sleep(PATIENCE)  # all that is left is in hand of another run
                for future in wait(running, PATIENCE, FIRST_COMPLETED).done if running else ():
                    job = running.pop(future)
                    outcome = _outcome(future, job, timeout)
                    if outcome.fatal:
                        raise RunError(str(outcome.reason))
                    if outcome.busy:
                        work.again(job)
                    elif outcome.lost and not (alone and job.key in work.lost):
                        work.suspect(job)
                    else:
                        end(job, outcome)
            _discard(store, dropped, name)  # what another run needed when this one did not any more
    finally:
        executor.stop(at_once=bool(running))
    return work.failed


def _discard(store: Store, keys: Collection[str], run: str) -> None:
    """Drop what no other run in progress needs."""
    if keys:
        for key in set(keys) - store.needed(but=run):
            store.discard(key)


def _outcome(future: Future[Outcome], job: Job, timeout: float | None) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        return Outcome(
            job.key, "the workers are gone; what is finished is kept: run the same command again", fatal=True
        )
    except Exception as error:  # the worker itself died
        late = f", or hung for longer than the {timeout:g} s allowed" if timeout else ""
        return Outcome(job.key, f"its worker process died twice{late} ({type(error).__name__})", lost=True)


class _Work:
    """Which jobs are ready, in the plan's order, and which parents no job waits for any more.

    suspects: in hand when a worker died; run again one by one, to find whose fault it was. waiting: in hand of another
    run, looked at again now and then.
    """

    def __init__(self, missing: Mapping[str, Job]) -> None:
        self.failed: dict[str, str] = {}
        self.lost: set[str] = set()
        self.waiting: list[tuple[float, int]] = []
        self._suspects: list[Job] = []
        self._order = {key: index for index, key in enumerate(missing)}
        self._jobs = list(missing.values())
        self._waits = {key: len(self._parents(job)) for key, job in missing.items()}
        self._children: dict[str, list[Job]] = {key: [] for key in missing}
        for job in missing.values():
            for parent in self._parents(job):
                self._children[parent].append(job)
        self._readers = {key: len(children) for key, children in self._children.items()}
        self._ready = [self._order[key] for key, count in self._waits.items() if count == 0]

    def _parents(self, job: Job) -> set[str]:
        return {parent.key for parent in job.parents.values() if parent.key in self._order}

    @property
    def left(self) -> bool:
        """Whether any job is ready, or will be without one that runs."""
        return bool(self._ready or self._suspects or self.waiting)

    def at_once(self, executor: Executor) -> int:
        """How many jobs to have submitted: one where one runs at once, else enough to keep every worker busy."""
        return 1 if self._suspects or executor.workers == 1 else 2 * executor.workers

    def next(self) -> Job | None:
        """The next to start, if any."""
        if self._suspects:
            return self._suspects.pop()
        if self._ready:
            return self._jobs[heapq.heappop(self._ready)]
        if self.waiting and self.waiting[0][0] <= time.monotonic():
            return self._jobs[heapq.heappop(self.waiting)[1]]
        return None

    def doomed(self, job: Job) -> str | None:
        """Why a job cannot succeed: its parent's reason."""
        return next((self.failed[p.key] for p in job.parents.values() if p.key in self.failed), None)

    def again(self, job: Job) -> None:
        """Another run has it in hand."""
        heapq.heappush(self.waiting, (time.monotonic() + PATIENCE, self._order[job.key]))

    def suspect(self, job: Job) -> None:
        """Its worker died."""
        self.lost.add(job.key)
        self._suspects.append(job)

    def done(self, job: Job, reason: str | None) -> list[Job]:
        """Free the job's children; the parents that it was the last to read."""
        if reason is not None:
            self.failed[job.key] = reason
        for child in self._children[job.key]:
            self._waits[child.key] -= 1
            if self._waits[child.key] == 0:
                heapq.heappush(self._ready, self._order[child.key])
        read = []
        for parent in self._parents(job):
            self._readers[parent] -= 1
            if self._readers[parent] == 0:
                read.append(self._jobs[self._order[parent]])
        return read
