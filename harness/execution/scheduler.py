"""Runs a plan on an executor and keeps every finished job in the store. Workers get jobs and the store's path, never
weights."""

from __future__ import annotations

import heapq
import pickle
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait

from harness.errors import RunError
from harness.execution.estimates import Estimates
from harness.execution.executors import Executor
from harness.execution.worker import Outcome, RunSite, perform
from harness.interrupts import stoppable
from harness.plan import Plan
from harness.stage import Stage
from harness.store import Store

POLL_SECONDS = 0.5
"""Wait between two checks of jobs that another run computes."""


class Progress:
    """Progress callbacks of a run; the default ignores them."""

    def began(self, plan: Plan, missing: Mapping[str, Stage], estimates: Estimates, workers: int) -> None:
        """The run starts. missing: the jobs to run, by key; the rest of the plan is in the store."""

    def started(self, job: Stage) -> None:
        """A job went to a worker; after a worker's death it may start again."""

    def finished(self, job: Stage, outcome: Outcome) -> None:
        """A job ended."""

    def say(self, line: str) -> None:
        """Any other message."""


def run(
    plan: Plan,
    store: Store,
    executor: Executor,
    progress: Progress | None = None,
    keep: bool = False,
    timeout: float | None = None,
) -> dict[str, str]:
    """Run the jobs of `plan` that the store lacks; the reasons of those that failed, by key.

    A job whose parent failed fails for the same reason; one whose worker died runs once more, alone. keep: keep
    transient artifacts. timeout: seconds for each job. Raises `RunError` if the store or the executor fails. On
    KeyboardInterrupt the executor is stopped and finished jobs stay.
    """
    progress = progress or Progress()
    running: dict[Future[Outcome], Stage] = {}
    try:
        with stoppable("SIGINT"), store.pin(plan.jobs) as name:
            site = RunSite(store.root, store.identity, name)
            missing = plan.missing(store)
            progress.began(plan, missing, Estimates.here(store.ledger(progress.say)), executor.workers)
            queue = _Queue(missing)
            dropped: set[str] = set()
            announced = False

            def end(job: Stage, outcome: Outcome) -> None:
                read = [parent.key for parent in queue.done(job, outcome.reason) if parent.transient and not keep]
                dropped.update(read)
                _discard(store, read, name)
                progress.finished(job, outcome)

            while queue.left or running:
                while len(running) < queue.limit(executor, running.values()) and (job := queue.next()) is not None:
                    if (reason := queue.inherited_failure(job)) is not None:
                        end(job, Outcome(job.key, reason))
                        continue
                    progress.started(job)
                    sent = pickle.dumps(job) if executor.separate else job
                    arguments = (job.key, sent, site, timeout, executor.separate)
                    running[executor.submit(perform, *arguments, gpu=job.gpu)] = job
                alone = len(running) == 1
                if not running and queue.postponed:
                    if not announced:
                        announced = True
                        progress.say(f"waiting for {len(queue.postponed)} jobs that another run computes")
                    time.sleep(POLL_SECONDS)
                for future in wait(running, POLL_SECONDS, FIRST_COMPLETED).done if running else ():
                    job = running.pop(future)
                    outcome = _outcome(future, job, timeout)
                    if outcome.fatal:
                        raise RunError(str(outcome.reason))
                    if outcome.busy:
                        queue.postpone(job)
                    elif outcome.worker_died and not (alone and job.key in queue.suspected):
                        queue.suspect(job)
                    else:
                        end(job, outcome)
            _discard(store, dropped, name)  # artifacts that another run has unpinned meanwhile
    finally:
        executor.stop(at_once=bool(running))
    return queue.failed


def _discard(store: Store, keys: Collection[str], run: str) -> None:
    """Drop artifacts that no other run in progress has pinned."""
    if keys:
        for key in set(keys) - store.pinned(besides=run):
            store.discard(key)


def _outcome(future: Future[Outcome], job: Stage, timeout: float | None) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        reason = "the workers are gone; finished jobs are kept: run the same command again"
        return Outcome(job.key, reason, fatal=True)
    except Exception as error:  # the worker itself died
        late = f", or hung for longer than the {timeout:g} s allowed" if timeout else ""
        reason = f"its worker process died twice{late} ({type(error).__name__})"
        return Outcome(job.key, reason, worker_died=True)


class _Queue:
    """The jobs that are ready, in the plan's order, and the parents that no job waits for any more.

    failed: reasons by key. suspected: keys of jobs that were running when a worker died; they run again one by one, to
    find the one that kills its worker. postponed: jobs that another run computes, each with the time to check it again.
    """

    def __init__(self, missing: Mapping[str, Stage]) -> None:
        self.failed: dict[str, str] = {}
        self.suspected: set[str] = set()
        self.postponed: list[tuple[float, int]] = []
        self._suspects: list[Stage] = []
        self._order = {key: index for index, key in enumerate(missing)}
        self._jobs = list(missing.values())
        self._waits = {key: len(self._parents(job)) for key, job in missing.items()}
        self._children: dict[str, list[Stage]] = {key: [] for key in missing}
        for job in missing.values():
            for parent in self._parents(job):
                self._children[parent].append(job)
        self._readers = {key: len(children) for key, children in self._children.items()}
        self._ready = [self._order[key] for key, count in self._waits.items() if count == 0]

    def _parents(self, job: Stage) -> set[str]:
        return {parent.key for parent in job.parents if parent.key in self._order}

    @property
    def left(self) -> bool:
        """Whether a job is ready, or will be without another one finishing."""
        return bool(self._ready or self._suspects or self.postponed)

    def limit(self, executor: Executor, running: Iterable[Stage]) -> int:
        """How many jobs to submit at once: one while suspects wait or are among the `running` jobs, or with one worker;
        else two for each worker."""
        alone = self._suspects or any(job.key in self.suspected for job in running)
        return 1 if alone or executor.workers == 1 else 2 * executor.workers

    def next(self) -> Stage | None:
        """The next job to start, if any."""
        if self._suspects:
            return self._suspects.pop()
        if self._ready:
            return self._jobs[heapq.heappop(self._ready)]
        if self.postponed and self.postponed[0][0] <= time.monotonic():
            return self._jobs[heapq.heappop(self.postponed)[1]]
        return None

    def inherited_failure(self, job: Stage) -> str | None:
        """The reason of a failed parent, if there is one."""
        return next((self.failed[parent.key] for parent in job.parents if parent.key in self.failed), None)

    def postpone(self, job: Stage) -> None:
        """Another run computes the job."""
        heapq.heappush(self.postponed, (time.monotonic() + POLL_SECONDS, self._order[job.key]))

    def suspect(self, job: Stage) -> None:
        """The job's worker died."""
        self.suspected.add(job.key)
        self._suspects.append(job)

    def done(self, job: Stage, reason: str | None) -> list[Stage]:
        """Free the job's children; returns the parents that it was the last to read."""
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
