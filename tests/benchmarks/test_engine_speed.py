"""What the engine costs over a bare loop of the same jobs; `make bench`. Not asserted: a timing is no test."""

import time
from dataclasses import replace

import pandas as pd
import pytest

from harness import api, leaderboard, records
from harness.execution import scheduler as runner
from harness.execution.executors import Serial
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
    monkeypatch.setattr(runner, "_track", lambda name, plugins: Waiting())
    plan = jobs_of(tiny, JOBS)

    def fresh():
        fresh.count += 1
        return (plan, Store(tmp_path / f"store{fresh.count}"), Serial()), {}

    fresh.count = 0
    failed = benchmark.pedantic(runner.run, setup=fresh, rounds=2)
    assert failed == {}
    assert not plan.missing(Store(tmp_path / "store1"))


class Small:
    """Carries out any job in a millisecond, and leaves one small figure."""

    def carry_out(self, job, parents, out):
        time.sleep(0.001)
        (out / "records.json").write_text('[{"metric": "seconds", "value": 1.0}]')


SUITE = """
format: 1
name: large
version: 1
title: Many small jobs
seeds: {seeds}
grids:
  - name: house_prices
    track: probe
    tasks: [{{data: house_prices}}]
    protocol: {{steps: 5, measure_at: [5]}}
    defenses: {{none: , random_init: }}
    attackers: {{adam: }}
"""
"""A seed of it has a dozen jobs."""


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.benchmark(group="a suite of so many jobs of a millisecond: planned, keyed, run, recorded; and again")
@pytest.mark.parametrize("again", [False, True])
def test_many_jobs(benchmark, tmp_path, monkeypatch, count, again):
    monkeypatch.setattr(runner, "_track", lambda name, plugins: Small())
    suite = tmp_path / "large.yaml"
    suite.write_text(SUITE.format(seeds=1))
    each = len(make(load(str(suite), seeds=101)).jobs) - len(make(load(str(suite), seeds=100)).jobs)
    suite.write_text(SUITE.format(seeds=-(-count // each // 100)))

    def whole(store):
        plan = make(load(str(suite), seeds=count // each))
        assert len(plan.jobs) == pytest.approx(count, rel=0.01)
        artifacts = Store(store)
        assert not runner.run(plan, artifacts, Serial())
        return records.collect(plan, artifacts, {})

    first = whole(tmp_path / "there") if again else None
    stores = [tmp_path / "there"] * 2 if again else [tmp_path / f"new{i}" for i in range(2)]
    found = benchmark.pedantic(whole, setup=lambda: ((stores.pop(),), {}), rounds=2)
    assert first is None or len(found) == len(first)


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.benchmark(group="so many records to a leaderboard")
def test_many_records(benchmark, tiny, tmp_path, count):
    result = api.run(str(tiny), workers=1)
    one = result.records
    copies = -(-count // len(one))
    # Ten seeds, and as many tasks as it takes.
    parts = [one.assign(seed=one["seed"] + 2 * (i % 5), task=one["task"] + str(i // 5)) for i in range(copies)]
    many = pd.concat(parts, ignore_index=True)
    made = benchmark.pedantic(leaderboard.write, args=(many, tmp_path / "out"), rounds=1)
    assert len(made.board) > 0
