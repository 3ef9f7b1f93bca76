"""The objectives of the baselines, as the released code's unused loss classes have them, by plain formulas."""

import pytest
import torch

from defenses._extractor import Batch
from defenses._regularisers import r_ill, r_well

FLOOR = 1e-6


@pytest.fixture
def batches():
    """A benign and a harmful batch, and a head."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(6, 4, dtype=torch.float64, generator=generator) for _ in range(2)]
    y = torch.tensor([1.0, 0, 1, 0, 1, 1], dtype=torch.float64)
    return [Batch(x, x, y) for x in draw], torch.randn(4, dtype=torch.float64, generator=generator)


def loss(batch, head):
    """Binary cross-entropy."""
    out = batch.features @ head
    return (torch.log1p(out.exp()) - batch.y * out).mean()


def log_kappa(batch):
    """ln κ over the floor."""
    return ((torch.linalg.eigvalsh(batch.features.T @ batch.features)[-1] + FLOOR) / FLOOR).log()


def test_objectives_as_released(build, batches):
    (benign, harmful), head = batches
    task = loss(benign, head)
    expected = {
        "imma_linear": task - loss(harmful, -head),  # there one digit is labelled 0, the other 1
        "r_ill": task + 5e7 * r_ill(harmful.gram),
        "opt_kappa": task + log_kappa(benign) + 1 / log_kappa(harmful),
    }
    for name, value in expected.items():
        torch.testing.assert_close(build("defense", name, "released").objective(benign, harmful, head), value)


def test_without_the_preset_they_have_no_benign_loss_but_imma_has(build, batches):
    (benign, harmful), head = batches
    expected = {
        "r_ill": 5e7 * r_ill(harmful.gram),
        "r_well": r_well(benign.gram, 4),
        "opt_kappa": log_kappa(benign) - log_kappa(harmful),
    }
    for name, value in expected.items():
        torch.testing.assert_close(build("defense", name).objective(benign, harmful, head), value)
        weighted = build("defense", name, weight_task=2.0).objective(benign, harmful, head)
        torch.testing.assert_close(weighted, value + 2 * loss(benign, head))
    unrolled = build("defense", "imma_linear").objective(benign, harmful, head)
    assert 0 < loss(benign, head) - unrolled < harmful.y.square().mean()  # the inner steps lower the harmful loss
