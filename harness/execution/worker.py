"""One job on a worker: its artifact is taken from the store or computed into it."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harness import meter
from harness.errors import ImmuneBenchError, RunError
from harness.execution import deadline, determinism
from harness.stage import Folders, Stage
from harness.store import Busy, Store, StoreError


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
                _check_source(job)
                with determinism.isolated(job.seed or 0):
                    job.run(folders, out)
                about["peak_mb"] = meter.peak_mb()
        folder = store.folder(job.key)
    return folder


def _check_source(job: Stage) -> None:
    """Raise `RunError` if the plugin's code here is not the code in the job's key: another version is installed, or
    the file was edited during the run."""
    plugin = job.plugin
    if plugin is None:
        return
    source = plugin.build().source()
    if source != plugin.source:
        raise RunError(
            f"{plugin.kind} '{plugin.name}' has other code here ({source[:8]}) than in the plan ({plugin.source[:8]}): "
            "do not edit it during a run, and install the same version on all workers"
        )


@lru_cache(maxsize=1)
def _store(site: RunSite) -> Store:
    return Store.connect(site.root, site.identity)


def perform(job: Stage, site: RunSite, timeout: float | None = None, separate: bool = False) -> Outcome:
    """`ensure` on a worker; no exception of a job leaves it.

    timeout: seconds for the job; None: no limit. separate: this process runs jobs only and may be ended.
    """
    start = time.perf_counter()
    try:
        store = _store(site)
        with deadline.within(timeout, end_process=separate):
            ensure(job, store, wait=False)
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
    return Outcome(job.key, seconds=time.perf_counter() - start, peak_mb=meter.peak_mb())
