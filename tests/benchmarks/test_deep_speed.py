"""One immunization step of the small ResNet beside a plain training step on the same rows, and a whole row of its grid.

`make bench`; read the ratio in the table's brackets. Times are CPU seconds of one core. Not asserted: a timing is no
test.
"""

import math
import time

import pytest
import torch

from harness.deep import DeepTargets, Released, Rows, data, extractors
from tests.runs import run

SIZE, ROWS = 28, 640
GRID = {"grids": ["resnet18_small"], "seeds": 1}


@pytest.fixture
def model() -> Released:
    extractor = extractors.load("resnet18_small", SIZE)
    model = Released(extractor.tail, extractor.dim, 10)
    assert extractor.classifier is not None
    model.head.load_state_dict(extractor.classifier.state_dict())
    return model


def rows(name: str) -> Rows:
    """The activations of the first training pictures of each class of a data set."""
    pictures = data.load(name).first(ROWS // 10)
    activations = extractors.load("resnet18_small", SIZE).activations
    parts = Rows(
        torch.cat([activations(pixels) for pixels in pictures.batches(SIZE)]), torch.from_numpy(pictures.labels)
    )
    return parts.take(torch.from_numpy(~pictures.heldout))


@pytest.mark.benchmark(group="one step on the small ResNet, 64 + 64 rows", timer=time.process_time)
@pytest.mark.parametrize("defense", ["condition_number_deep", "opt_kappa_deep", "imma_deep", "task_only"])
def test_immunization_step(benchmark, build, model, defense):
    steps = build("defense", defense, steps=10**6).immunize(model, DeepTargets(rows("fashion_mnist"), rows("mnist5k")))
    next(steps)  # balances the weights
    assert torch.isfinite(benchmark.pedantic(next, (steps,), rounds=40, warmup_rounds=5))


@pytest.mark.benchmark(group="one step on the small ResNet, 64 + 64 rows", timer=time.process_time)
def test_plain_step(benchmark, model):
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    batches = rows("fashion_mnist").batches(128, torch.Generator().manual_seed(0))

    def step() -> float:
        loss = model.loss(next(batches))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    assert math.isfinite(benchmark.pedantic(step, rounds=40, warmup_rounds=5))


@pytest.mark.benchmark(group="a row of the small ResNet with eight attackers and all metrics", timer=time.process_time)
@pytest.mark.parametrize("defense", ["condition_number", "rank_one"])
def test_row(benchmark, tmp_path, defense):
    run("deep", store=tmp_path, defenses=["none"], **GRID)
    options = {"store": tmp_path, "defenses": ["none", defense], **GRID}
    assert not benchmark.pedantic(run, ("deep",), options, rounds=1).failed
