"""MSGR, MRSGR and their parts, on values worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.diffusion import similarity
from harness.diffusion.metrics.mrsgr import mrsgr
from harness.diffusion.metrics.msgr import msgr, msgr_of_means

unit = st.floats(0.1, 1)


def test_cosine_is_the_mean_over_all_pairs() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    half = 1 / math.sqrt(2)
    by_hand = (1 + half + 0 + 0 + half - 1) / 6
    assert similarity.cosine(first, second) == pytest.approx(by_hand)


def test_msgr_by_hand() -> None:
    # (0.8 − 0.6) / 0.8 = 0.25 and (0.5 − 0.45) / 0.5 = 0.1: the mean is 17.5 %.
    assert msgr([0.8, 0.5], [0.6, 0.45]) == pytest.approx(17.5)


def test_msgr_of_means_by_hand() -> None:
    # (1.3 − 1.05) / 1.3
    assert msgr_of_means([0.8, 0.5], [0.6, 0.45]) == pytest.approx(100 * 0.25 / 1.3)


def test_mrsgr_by_hand() -> None:
    # others 0.9, 0.7 → 0.8; targets 0.5, 0.7, 0.6 → 0.6; (0.8 − 0.6) / 0.8
    assert mrsgr([0.9, 0.7], [0.5, 0.7, 0.6]) == pytest.approx(25)


def test_denominators_near_zero_are_not_divided_by() -> None:
    assert msgr([0.8, 0.01], [0.6, 0.3]) is None
    assert msgr([0.8, -0.2], [0.6, 0.3]) is None
    assert msgr_of_means([0.05, 0.01], [0.6, 0.3]) is None
    assert mrsgr([0.01], [0.5]) is None


def test_area_by_hand() -> None:
    # (10 · 0.5 + 40 · 2) / 50
    assert similarity.area([0, 10, 50], [0, 1, 3]) == pytest.approx((10 * 0.5 + 40 * 2) / 50)
    assert similarity.area([40], [0.3]) == 0.3


@given(st.lists(unit, min_size=1, max_size=5))
def test_no_change_is_no_gap(values: list[float]) -> None:
    assert msgr(values, values) == pytest.approx(0, abs=1e-9)
    assert msgr_of_means(values, values) == pytest.approx(0, abs=1e-9)
    assert mrsgr(values, values) == pytest.approx(0, abs=1e-9)


@given(unit, st.lists(unit, min_size=1, max_size=5))
def test_both_gaps_agree_where_the_undefended_similarities_do(adapted: float, immunized: list[float]) -> None:
    same = [adapted] * len(immunized)
    assert msgr(same, immunized) == pytest.approx(msgr_of_means(same, immunized))


@given(st.floats(-3, 3), st.integers(2, 6))
def test_area_of_a_level_curve_is_its_height(height: float, count: int) -> None:
    steps = [i * i for i in range(count)]
    assert similarity.area(steps, [height] * count) == pytest.approx(height)
