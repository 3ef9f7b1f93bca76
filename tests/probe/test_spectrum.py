"""Condition numbers against dense formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.probe.spectrum import FLOOR, Spectrum, condition_number, gram


def spectrum(features):
    return Spectrum(torch.linalg.svdvals(features), features.shape[1], len(features))


def random(rows, dim, seed=0):
    return torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_hand_computed_kappa_policies():
    # H = FᵀF = diag(9, 4, 0): rank 2 of 3.
    features = torch.tensor([[3.0, 0, 0], [0, 2, 0], [0, 0, 0]], dtype=torch.float64)
    result = spectrum(features)
    assert result.rank == 2
    assert result.floor_hit
    assert result.kappa("floor") == pytest.approx((9 + 1e-6) / 1e-6)
    assert result.kappa("range") == pytest.approx(9 / 4)
    assert result.kappa("fixed-rank", rank=1) == pytest.approx(1)
    assert result.kappa("fixed-rank", rank=3) == math.inf
    assert result.norm == pytest.approx(math.sqrt(13))
    with pytest.raises(ValueError, match="needs a rank"):
        result.kappa("fixed-rank")


def test_full_rank_does_not_hit_the_floor():
    features = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    result = spectrum(features)
    assert not result.floor_hit
    assert result.kappa("floor") == pytest.approx((4 + FLOOR) / (1 + FLOOR))


@given(rows=st.integers(2, 8), dim=st.integers(2, 8), seed=st.integers(0, 99), scale=st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_range_ignores_scale_and_floor_grows_with_its_square(rows, dim, seed, scale):
    features = random(rows, dim, seed)
    result, scaled = spectrum(features), spectrum(scale * features)
    assert scaled.kappa("range") == pytest.approx(result.kappa("range"), rel=1e-9)
    assert result.kappa("floor", scale=scale) == pytest.approx(scaled.kappa("floor"), rel=1e-9)
    assert result.kappa("range") >= 1
    if rows < dim:
        assert scaled.kappa("floor") == pytest.approx(scale**2 * result.kappa("floor"), rel=1e-3)


@pytest.mark.parametrize(("rows", "dim"), [(5, 9), (9, 5)])
def test_condition_number_equals_its_dense_formula(rows, dim):
    features = random(rows, dim)
    values = torch.linalg.eigvalsh(features.T @ features)
    nonzero = values[values > 1e-9]
    torch.testing.assert_close(condition_number(gram(features)), nonzero[-1] / nonzero[0])
    torch.testing.assert_close(condition_number(gram(features), 1e-6), (values[-1] + 1e-6) / 1e-6)


def test_condition_number_is_differentiable_by_the_features():
    features = random(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: condition_number(gram(f)).log(), (features,))
