"""The fast training step against the plain autograd one, on 784 features; read the ratio in the table's brackets.

`make bench`. Not asserted: a timing is no test.
"""

import itertools

import pytest
import torch

from harness.probe.data import load
from harness.probe.model import Extractor
from harness.probe.tasks import Task
from tests.defenses.reference import DIGITS, Trainer

TASK = Task(data="mnist5k", framing="single-class", benign=3, harmful=8)


@pytest.mark.benchmark(group="one condition-number step on digits")
@pytest.mark.parametrize("side", ["released", "paper", "none"])
def test_fast_step(benchmark, build, side):
    torch.manual_seed(1)
    defense = build("defense", "condition_number", preconditioner=side, epochs=10**6)
    steps = defense.immunize(Extractor(784), load(TASK).train)
    next(steps)
    loss = benchmark.pedantic(next, (steps,), rounds=60, warmup_rounds=5)
    assert torch.isfinite(loss)


@pytest.mark.benchmark(group="one condition-number step on digits")
@pytest.mark.parametrize("side", ["released", "paper", "none"])
def test_plain_autograd_step(benchmark, side):
    torch.manual_seed(1)
    steps = Trainer(load(TASK).train, DIGITS | {"side": side}, 1e-3).epochs(10**6)
    loss = benchmark.pedantic(next, (steps,), rounds=10, warmup_rounds=1)
    assert torch.isfinite(loss)


@pytest.mark.benchmark(group="thirty steps on house prices")
def test_house_prices(benchmark, build):
    targets = load(Task(data="house_prices")).train
    defense = build("defense", "condition_number", "house_prices", epochs=10)

    def train():
        torch.manual_seed(1)
        return len(list(itertools.islice(defense.immunize(Extractor(79), targets), 30)))

    assert benchmark(train) == 30
