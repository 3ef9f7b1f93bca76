"""The ridge probe against plain algebra."""

import pytest
import torch

from harness.probe.data import Split
from harness.probe.ridge import PENALTIES, fit_ridge


def plain(data, penalty, intercept):
    """Head and intercept for one penalty, from the normal equations with a column of ones that is not penalised."""
    x = torch.cat([data.x, torch.ones(len(data), 1, dtype=torch.float64)], 1) if intercept else data.x
    damping = penalty * torch.eye(x.shape[1], dtype=torch.float64)
    if intercept:
        damping[-1, -1] = 0
    solved = torch.linalg.solve(x.T @ x + damping, x.T @ data.y)
    return solved[: data.x.shape[1]], solved[-1] if intercept else torch.tensor(0.0)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_the_penalty_is_that_of_the_least_error_on_the_row_left_out(noise, intercept):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 6, dtype=torch.float64, generator=generator) * torch.logspace(0, -2, 6) + 1
    data = Split(x, x.sum(1) + 2 + noise * torch.randn(20, dtype=torch.float64, generator=generator))
    unit = torch.linalg.matrix_norm(x - x.mean(0) * intercept, 2) ** 2
    penalties = PENALTIES[20:] * unit
    errors = []
    for penalty in penalties:
        left_out = []
        for row in range(len(x)):
            rest = torch.arange(len(x)) != row
            head, constant = plain(Split(x[rest], data.y[rest]), penalty, intercept)
            left_out.append(float(x[row] @ head + constant - data.y[row]) ** 2)
        errors.append(sum(left_out))
    best = penalties[torch.tensor(errors).argmin()]
    head, constant = fit_ridge(data, intercept)
    expected, level = plain(data, best, intercept)
    torch.testing.assert_close(head, expected)
    assert float(constant) == pytest.approx(float(level))


def test_constant_features_and_targets_have_a_probe():
    data = Split(torch.ones(5, 3, dtype=torch.float64), torch.full((5,), 2.0, dtype=torch.float64))
    head, constant = fit_ridge(data)
    assert head.tolist() == [0, 0, 0]
    assert constant == 2
