"""Ridge regression with a penalty chosen by leave-one-out: a probe that is stable on features of any conditioning."""

from __future__ import annotations

import torch

from harness.probe.data import Split

PENALTIES = torch.logspace(-12, 1, 53, dtype=torch.float64)
"""Penalties to choose from, in units of the largest squared singular value of the features."""


@torch.no_grad()
def fit_ridge(data: Split, intercept: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """The head w (dim) and the intercept c (a scalar) that minimise Σ(xw + c − y)² + λ‖w‖².

    data: features (rows, dim) and targets of the training rows. intercept: without one c is 0. λ is that of `PENALTIES`
    with the least mean squared leave-one-out residual, e/(1 − h) with the residual e and the leverage h of a row
    (Allen, Technometrics 16, 1974), so no row has to be set aside. A direction in which the features are 1e-6 times as
    large as in the largest one, or smaller, is shrunk under every λ.
    """
    centre, mean = data.x.mean(0) * intercept, data.y.mean() * intercept
    left, singular, right = torch.linalg.svd(data.x - centre, full_matrices=False)
    tiny = torch.finfo(singular.dtype).tiny  # for features that do not vary
    gains = singular[:, None] / (singular[:, None] ** 2 + PENALTIES * singular[0] ** 2 + tiny)
    target = left.T @ (data.y - mean)
    kept = gains * singular[:, None]
    residuals = (data.y - mean)[:, None] - left @ (kept * target[:, None])
    leverages = left.square() @ kept + intercept / len(data)
    errors = (residuals / (1 - leverages)).square().mean(0)
    head = right.T @ (gains[:, errors.nan_to_num(torch.inf).argmin()] * target)
    return head, mean - centre @ head
