"""The cost of the engine over a bare loop of the same jobs; `make bench`. No time is asserted."""

import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from harness.execution import scheduler
from harness.execution.executors import Serial
from harness.metric import write_values
from harness.plan import Cell, Plan, make
from harness.records import frame
from harness.selection import Selection
from harness.stage import Folders, Stage, unique
from harness.store import Store
from harness.submission import pack
from harness.suite_reader import load
from tests.benchmarks import many_jobs
from tests.benchmarks.many_records import board_of
from tests.helpers import EXAMPLES

JOBS, SECONDS = 10, 1.0
VALUES = [{"metric": "seconds", "value": 1.0}]


def compute(out):
    """Compute for a second and leave one value."""
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        pass
    write_values(VALUES, out)


class Second(Stage, track="benchmark", version=1):
    """A job of a second."""

    def run(self, folders: Folders, out) -> None:
        compute(out)


class Millisecond(Stage, track="benchmark", version=1):
    """A job of a millisecond with a parent."""

    number: int
    model: Stage | None = None

    def run(self, folders: Folders, out) -> None:
        time.sleep(0.001)
        write_values(VALUES, out)


def plan_of(suite, jobs):
    """A plan in which each job is a cell."""
    placed = tuple(Cell({"task": str(number)}, job) for number, job in enumerate(jobs))
    return Plan(suite, placed, unique(jobs))


@pytest.fixture
def suite():
    return load(str(EXAMPLES / "two_layer.yaml"))


@pytest.mark.benchmark(group=f"{JOBS} jobs of {SECONDS:g} s")
def test_bare_loop(benchmark, tmp_path):
    def loop():
        for index in range(JOBS):
            out = tmp_path / str(index)
            out.mkdir(exist_ok=True)
            compute(out)

    benchmark.pedantic(loop, rounds=2)
    assert len(list(tmp_path.glob("*/values.json"))) == JOBS


@pytest.mark.benchmark(group=f"{JOBS} jobs of {SECONDS:g} s")
def test_engine(benchmark, suite, tmp_path):
    plan = plan_of(suite, [Second(seed=seed) for seed in range(JOBS)])
    stores = [tmp_path / f"store{i}" for i in range(2)]

    def run(store):
        return scheduler.run(plan, Store(store), Serial())

    assert benchmark.pedantic(run, setup=lambda: ((stores.pop(),), {}), rounds=2) == {}
    assert not plan.missing(Store(tmp_path / "store1"))


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.benchmark(group="jobs of a millisecond: keyed, run and stored; and again")
@pytest.mark.parametrize("again", [False, True])
def test_many_jobs(benchmark, suite, tmp_path, count, again):
    def whole(store):
        models = [Millisecond(number=number) for number in range(count // 2)]
        plan = plan_of(suite, [Millisecond(number=model.number, model=model) for model in models])
        assert len(plan.jobs) == count
        return scheduler.run(plan, Store(store), Serial())

    if again:
        whole(tmp_path / "full")
    stores = [tmp_path / "full"] * 2 if again else [tmp_path / f"new{i}" for i in range(2)]
    assert benchmark.pedantic(whole, setup=lambda: ((stores.pop(),), {}), rounds=2) == {}


@pytest.mark.benchmark(group="a suite: planned, and packed from a full store")
@pytest.mark.parametrize("seeds", [2, 20])
def test_plan_and_pack(benchmark, tmp_path, seeds):
    selection = Selection(seeds=seeds)
    store = Store(tmp_path)
    assert scheduler.run(make(load(str(EXAMPLES / "two_layer.yaml"), selection)), store, Serial()) == {}

    def plan_and_pack():
        plan = make(load(str(EXAMPLES / "two_layer.yaml"), selection))
        return pack.pack(plan, store, {}, pack.opening(plan, store))

    assert len(benchmark(plan_and_pack).cells) == 12 + 4 * seeds


@pytest.mark.parametrize("tasks", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.benchmark(group="a suite of many tasks and seeds, planned")
def test_many_planned_jobs(benchmark, tasks):
    """In a process of its own, so that its peak memory is that of the plan."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        benchmark.extra_info |= benchmark.pedantic(lambda: pool.submit(many_jobs.plan_of, tasks).result(), rounds=1)


@pytest.mark.parametrize("count", [100_000, pytest.param(3_000_000, marks=pytest.mark.slow)])
@pytest.mark.benchmark(group="records made, and a board of them")
def test_many_records(benchmark, count):
    """In a process of its own, so that its peak memory is that of the records and their board."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        benchmark.extra_info |= benchmark.pedantic(lambda: pool.submit(board_of, count).result(), rounds=1)


@pytest.mark.parametrize("what", ["plan", "records"])
def test_growth(benchmark, what):
    """Time and peak memory with four times the seeds, over those with one time; linear growth gives 4."""
    times, peaks = [], []
    for seeds in (50, 200):
        suite = load(str(EXAMPLES / "two_layer.yaml"), Selection.of(seeds=seeds))
        plan = make(suite)
        rows = [{**cell.coordinates, "key": cell.job.key, "value": 1.0} for cell in plan.cells]
        work = (lambda suite=suite: make(suite)) if what == "plan" else (lambda rows=rows: frame(rows * 20))
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    benchmark.extra_info |= {"time": times[1] / times[0], "memory": peaks[1] / peaks[0], "jobs": len(plan.jobs)}
    benchmark.pedantic(work, rounds=1)
