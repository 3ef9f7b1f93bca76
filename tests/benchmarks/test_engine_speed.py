"""What the engine costs over a bare loop of the same jobs; `make bench`. Not asserted: a timing is no test."""

import time
from dataclasses import replace

import pytest

from harness import runner
from harness.plan import Cell, Plan, make
from harness.store import Store
from harness.suite import load

JOBS, SECONDS = 10, 1.0


class Waiting:
    """Carries out any job by computing for a second, and leaves one small figure."""

    def carry_out(self, job, parents, out):
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            pass
        (out / "records.json").write_text('[{"metric": "seconds", "value": 1.0}]')


def jobs_of(tiny, count):
    """A plan of `count` jobs that differ only in their seed."""
    made = make(load(str(tiny)))
    first = next(iter(made.jobs.values()))
    jobs = [replace(first, seed=seed) for seed in range(count)]
    cells = tuple(Cell({"task": str(job.seed)}, job) for job in jobs)
    return Plan(made.suite, cells, {job.key: job for job in jobs})


@pytest.mark.benchmark(group=f"{JOBS} jobs of {SECONDS:g} s")
def test_bare_loop(benchmark, tmp_path):
    def loop():
        for index in range(JOBS):
            out = tmp_path / str(index)
            out.mkdir(exist_ok=True)
            Waiting().carry_out(None, {}, out)

    benchmark.pedantic(loop, rounds=2)
    assert len(list(tmp_path.glob("*/records.json"))) == JOBS


@pytest.mark.benchmark(group=f"{JOBS} jobs of {SECONDS:g} s")
def test_engine(benchmark, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_track", lambda name: Waiting())
    plan = jobs_of(tiny, JOBS)

    def fresh():
        fresh.count += 1
        return (plan, Store(tmp_path / f"store{fresh.count}"), runner.Serial()), {}

    fresh.count = 0
    failed = benchmark.pedantic(runner.run, setup=fresh, rounds=2)
    assert failed == {}
    assert not plan.missing(Store(tmp_path / "store1"))
