"""One job on a worker: its artifact is taken from the store or computed into it."""

from __future__ import annotations

import contextlib
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from harness import machine, meter, source
from harness.errors import RunError
from harness.execution import child, deadline, determinism, server, surroundings
from harness.execution.failure import line, reason
from harness.interrupts import contained
from harness.stage import Folders, Stage
from harness.store import Busy, Store, StoreError
from harness.versions import version


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    reason: why it failed, in one line; None if it did not. fatal: the run cannot go on. busy: another run computes it.
    worker_died: the worker died, which may not be the job's fault. seconds, peak_mb: wall time, and the highest
    resident memory of the worker in MiB; None where nothing was computed.
    """

    key: str
    reason: str | None = None
    fatal: bool = False
    busy: bool = False
    worker_died: bool = False
    seconds: float | None = None
    peak_mb: float | None = None


class RunSite(NamedTuple):
    """The store of a run as a worker must find it. root: its folder. identity: of the store. run: the run's id, so that
    what a worker has checked counts for one run."""

    root: Path
    identity: str
    run: str


def ensure(job: Stage, store: Store, wait: bool = True) -> Path:
    """The folder of a job's artifact, computed if the store lacks it, after every parent that is missing or damaged.

    wait: wait while another process computes this job; otherwise raise `Busy`.
    """
    folder = store.open(job.key)
    if folder is None:
        folders = Folders({parent.key: ensure(parent, store) for parent in job.parents})
        with store.write(job.key, about := dict(job.about), wait) as out:
            if out is not None:
                about["machines"] = _machines(job, store)
                with _true_to_key(job):
                    about["peak_mb"] = _compute(job, folders, out, store)
        folder = store.folder(job.key)
    return folder


def _machines(job: Stage, store: Store) -> list[str]:
    """The machines that computed a job on this one: this machine, and those of its parents."""
    parents = (store.manifest(parent.key).get("machines", []) for parent in job.parents)
    return sorted({machine.here(), *chain.from_iterable(parents)})


def _compute(job: Stage, folders: Folders, out: Path, store: Store) -> float:
    """Run a job; returns the peak memory of its process, in MiB. A job with a plugin that does not come with the
    harness runs in a process of its own where that is possible; the rest of the store is closed to it for writing."""

    def run(alone: bool) -> float:
        preserved = surroundings.preserved(alone) if job.plugin else contextlib.nullcontext()
        with determinism.isolated(job.seed or 0), contained(), preserved:
            job.run(folders, out)
        return meter.peak_mb()

    child.private.add(store.root)
    if job.plugin is None or job.plugin.shipped or job.apart or not child.possible(job.gpu):
        return run(alone=False)
    server.warm_up()
    closed = child.Closed(to_writing=[str(store.root)], but=[str(out)])
    return float(child.call(lambda: str(run(alone=True)), closed))


@contextlib.contextmanager
def _true_to_key(job: Stage) -> Iterator[None]:
    """Raise `RunError` unless the code and the files of the job are those in its key, before and after the block and
    without an edit between."""
    code, files = _code(job), [file.check() for file in job.files]
    yield
    # A base model from the hub may have been downloaded in the block; then its commit is checked here.
    same = [before in ((), file.check()) for before, file in zip(files, job.files, strict=True)]
    if _code(job) != code or not all(same):
        raise RunError("a plugin or a file that the job reads was changed while it ran: run the same command again")


def _code(job: Stage) -> list[Any]:
    """The versions of the files with the job's code, that is of its plugin and of a stage outside the harness; raises
    `RunError` if the code is not that in the key: another version is installed, or it was edited during the run."""
    specs = []
    if (plugin := job.plugin) is not None:
        built = plugin.build()
        _compare(f"{plugin.kind} '{plugin.name}'", built.source(), plugin.source)
        specs.append(sys.modules[type(built).__module__].__spec__)
    if job.spec is not None and job.code is not None:
        _compare(f"stage '{job.name}'", source.digest(job.spec), job.code)
        specs.append(job.spec)
    return [version(path) for spec in specs if spec is not None for path in source.closure(spec).values()]


def _compare(name: str, here: str, planned: str) -> None:
    if here != planned:
        raise RunError(
            f"{name} has other code here ({here[:8]}) than in the plan ({planned[:8]}): do not edit it during a run, "
            "and install the same version on all workers"
        )


@lru_cache(maxsize=1)
def _store(site: RunSite) -> Store:
    return Store.connect(site.root, site.identity)


def perform(
    key: str, job: Stage | bytes, site: RunSite, timeout: float | None = None, separate: bool = False
) -> Outcome:
    """`ensure` on a worker; no exception of a job leaves it.

    key: the job's key in the plan. job: the job, or its pickle. timeout: seconds for the job; None: no limit. separate:
    this process runs jobs only and may be ended.
    """
    start = time.perf_counter()
    try:
        store = _store(site)
        job = job if isinstance(job, Stage) else _unpickled(job)
        _warm_up(job)
        if job.key != key:
            raise RunError(
                f"stage '{job.name}' has another key here ({job.key[:8]}) than in the plan ({key[:8]}): do not edit "
                "its track during a run, and install the same versions on all workers"
            )
        with deadline.within(timeout, end_process=separate):
            ensure(job, store, wait=False)
    except Busy:
        return Outcome(key, busy=True)
    except StoreError as error:
        return Outcome(key, str(error), fatal=True)
    except child.Killed as error:
        return Outcome(key, line(error), worker_died=True)
    except deadline.Passed:
        return Outcome(key, f"took longer than the {timeout:g} s allowed")
    except Exception as error:
        return Outcome(key, reason(error))
    return Outcome(key, seconds=time.perf_counter() - start, peak_mb=meter.peak_mb())


def _warm_up(job: Stage) -> None:
    """Do once in this process what takes seconds and the first job with a plugin of others needs: as the job's own
    imports, it is in no time limit."""
    if job.plugin is not None and not job.plugin.shipped and server.possible():
        (server.start if job.apart else server.warm_up)()


def _unpickled(job: bytes) -> Stage:
    with contained():
        unpickled: Stage = pickle.loads(job)
    return unpickled
