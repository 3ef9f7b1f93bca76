"""Pulling a generator."""

import math

import pytest
import torch

from harness import meter
from harness.errors import PluginError
from harness.meter import Cost, pull


def forever(value=1.0):
    while True:
        yield value


def test_counts_and_stops():
    seen = []
    cost = pull(forever(), "it", 3, seen.append)
    assert cost.steps == 3
    assert seen == [1, 2, 3]


def test_pulls_to_the_end_without_a_budget():
    assert pull(iter_three(), "it").steps == 3


def iter_three():
    yield torch.tensor(1.0)
    yield 2
    yield 3.5


def test_time_in_measuring_is_not_the_plugins(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(meter, "perf_counter", lambda: clock[0])

    def step_of_one_second():
        while True:
            clock[0] += 1
            yield 1.0

    def measurement_of_a_minute(step):
        clock[0] += 60

    assert pull(step_of_one_second(), "it", 2, measurement_of_a_minute).seconds == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(float("nan"))])
def test_a_loss_that_is_not_finite_is_refused(value):
    with pytest.raises(PluginError, match=r"it yielded a loss of (nan|inf) at step 1"):
        pull(forever(value), "it", 3)


def test_what_is_no_loss_is_refused():
    for value in (None, "low", torch.ones(2)):
        with pytest.raises(PluginError, match="yield the loss as a number"):
            pull(forever(value), "it", 3)


def test_ending_early_is_refused():
    with pytest.raises(PluginError, match="ended after 3 of 5 steps"):
        pull(iter_three(), "it", 5)


def test_yielding_nothing_is_refused():
    with pytest.raises(PluginError, match="yielded nothing"):
        pull((_ for _ in ()), "it")


def test_no_generator_is_refused():
    with pytest.raises(PluginError, match="must be a generator"):
        pull([1.0, 2.0], "it")


def test_the_generator_is_closed():
    closed = []

    def watched():
        try:
            yield 1.0
            yield math.nan
        finally:
            closed.append(True)

    with pytest.raises(PluginError):
        pull(watched(), "it", 2)
    assert closed == [True]


def test_memory_that_a_step_takes_is_seen():
    def hungry():
        block = torch.ones(64 * 2**20, dtype=torch.uint8)  # 64 MiB
        yield float(block[0])

    for _ in range(2):  # also where an earlier job has freed as much
        assert 50 < pull(hungry(), "it").peak_mb < 80


def test_memory_that_is_freed_within_a_step_is_seen():
    def fleeting():
        yield float(torch.ones(64 * 2**20, dtype=torch.uint8)[0])
        yield 1.0

    assert 50 < pull(fleeting(), "it").peak_mb < 80


class Gpu:
    """`torch.cuda` with a clock: work is queued, and takes its time when somebody waits for it."""

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.queued, self.allocated, self.highest = clock, 0.0, 100 * 2**20, 300 * 2**20

    def launch(self, seconds: float, mib: int) -> None:
        self.queued += seconds
        self.highest = max(self.highest, self.allocated + mib * 2**20)

    def is_initialized(self) -> bool:
        return True

    is_available = is_initialized

    def synchronize(self) -> None:
        self.clock[0] += self.queued
        self.queued = 0.0

    def reset_peak_memory_stats(self) -> None:
        self.highest = self.allocated

    def memory_allocated(self) -> int:
        return self.allocated

    def max_memory_allocated(self) -> int:
        return self.highest


@pytest.fixture
def gpu(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(meter, "perf_counter", lambda: clock[0])
    fake = Gpu(clock)
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


def test_the_gpus_work_is_timed_where_it_was_given(gpu):
    """Work that is queued before a step is not the step's, work that the step queues is."""

    def step():
        while True:
            gpu.launch(2, 50)
            yield 1.0

    cost = pull(step(), "it", 3, lambda step: gpu.launch(60, 0))
    assert cost.seconds == 6
    assert cost.peak_mb == 50


def test_resident_memory_is_reported_where_nothing_is_allocated_on_the_gpu(gpu):
    """Other jobs of this process may have used the GPU."""

    def hungry():
        yield float(torch.ones(64 * 2**20, dtype=torch.uint8)[0])

    assert 50 < pull(hungry(), "it").peak_mb < 80


@pytest.mark.gpu
def test_a_real_gpu_is_waited_for():
    def step():
        block = torch.ones(64 * 2**20, dtype=torch.uint8, device="cuda")  # 64 MiB
        while True:
            torch.cuda._sleep(2 * 10**9)  # cycles: about a second
            yield float(block.numel())

    torch.zeros(1, device="cuda")
    cost = pull(step(), "it", 2)
    assert cost.seconds > 0.5
    assert cost.peak_mb == 64


def test_costs_are_kept(tmp_path):
    cost = Cost(steps=3, seconds=1.5, peak_mb=2.0)
    cost.save(tmp_path)
    assert Cost.load(tmp_path) == cost


def test_gradient_evaluations_are_counted_within_the_plugin_only():
    def attack():
        while True:
            meter.count_gradient(64)
            meter.count_gradient(200, 0.5)
            yield 1.0

    meter.count_gradient(1000)
    cost = pull(attack(), "it", 5, lambda step: meter.count_gradient(1000), record_at=(0, 1, 4))
    assert (cost.gradients, cost.samples) == (7.5, 5 * 264)
    assert {step: (spent.gradients, spent.samples) for step, spent in cost.at.items()} == {
        1: (1.5, 264),
        4: (6, 4 * 264),
    }
    assert cost.at[1].seconds <= cost.at[4].seconds <= cost.seconds
