"""The regularisers against their dense formulas."""

import pytest
import torch

from defenses._regularisers import r_ill, r_well
from harness.probe import gram
from tests.probe.test_spectrum import random


@pytest.mark.parametrize(("rows", "dim"), [(5, 9), (9, 5)])
def test_regularisers_equal_their_dense_formulas(rows, dim):
    features = random(rows, dim)
    hessian = features.T @ features
    values = torch.linalg.eigvalsh(hessian)
    nonzero = values[values > 1e-9]
    frobenius = hessian.square().sum()
    small = gram(features)
    torch.testing.assert_close(r_well(small, dim), values[-1] ** 2 / 2 - frobenius / (2 * dim))
    torch.testing.assert_close(r_ill(small), 1 / (frobenius / (2 * len(nonzero)) - nonzero[0] ** 2 / 2))
    torch.testing.assert_close(r_ill(small, k=3), 1 / (frobenius / 6 - nonzero[0] ** 2 / 2))
    torch.testing.assert_close(r_ill(small, k=3, floor=1e-6), 1 / (frobenius / 6 - 0.5e-12))


def test_regularisers_are_differentiable_by_the_features():
    features = random(4, 6).requires_grad_()
    for function in (lambda f: r_well(gram(f), 6), lambda f: r_ill(gram(f))):
        assert torch.autograd.gradcheck(function, (features,))


def test_r_well_is_zero_only_where_the_condition_number_is_one():
    # ½σ₁² − ‖S‖²/(2p) with p equal eigenvalues.
    even = torch.linalg.qr(random(5, 5)).Q
    assert float(r_well(gram(3 * even), 5)) == pytest.approx(0, abs=1e-9)
    assert float(r_well(gram(random(5, 5)), 5)) > 0
