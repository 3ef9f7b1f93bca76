"""A plan of many jobs, for a process that does nothing else and so has no other memory."""

import tempfile
import time
from pathlib import Path

from harness.plan import make
from harness.selection import Selection
from harness.suite_reader import load
from tests.benchmarks.many_records import peak
from tests.runs import write_suite


def plan_of(tasks: int) -> dict[str, float]:
    """Plan a suite of `tasks` tasks with 1000 seeds. Returns the number of jobs, the seconds that the plan takes, and
    the process's peak memory in MiB, before it and in the end."""

    def change(suite):
        suite["grids"][0]["tasks"] = [{"teacher": number} for number in range(1, tasks + 1)]

    with tempfile.TemporaryDirectory() as folder:
        path = write_suite(Path(folder), change)
        make(load(str(path), Selection.of(seeds=1)))  # imports the track
        before, start = peak(), time.perf_counter()
        plan = make(load(str(path), Selection.of(seeds=1000)))
    seconds = time.perf_counter() - start
    return {"jobs": len(plan.jobs), "plan_seconds": seconds, "before_mib": before, "peak_mib": peak()}
