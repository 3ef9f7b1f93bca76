"""Linear probing of a deep network, the attack of the condition-number paper on networks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from attackers._rates import Step, best_of, together
from attackers._scaling import DESCRIPTION, Scaling, scaling
from harness.deep import AttackRows, DeepAttacker, Network, Rows, zero_linear

Rate = Annotated[float, Field(gt=0)]
Optimiser = Literal["gradient_descent", "sgd", "adam", "lbfgs"]
RATES: dict[Optimiser, tuple[float, ...]] = {
    "gradient_descent": (1.0, 3.0, 10.0, 30.0, 100.0),
    "sgd": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    "adam": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    "lbfgs": (1.0,),
}
"""Step sizes to choose from: of gradient descent and SGD in units of 1/L, with L an upper bound on the curvature."""


class LinearProbing(DeepAttacker):
    """Trains a new linear head on the frozen features (ICML 2025, Section 5.3).

    The optimiser is gradient descent on all rows, stochastic gradient descent with momentum 0.9 on batches, Adam
    (Kingma & Ba, 2015) or L-BFGS (Liu & Nocedal, 1989). Several heads are trained with one step size each, all on the
    same batches, and the one with the lowest validation loss is the attack, compared after 1, 2, 4, 8, … steps. A step
    is then one of each head, and their gradient evaluations count: the search is a part of the attack.
    """

    name = "linear_probing"

    optimiser: Optimiser = Field(
        "gradient_descent",
        description="gradient_descent and lbfgs on all rows, sgd on batches, adam on batches or on all rows",
        json_schema_extra={"search": {"choices": ["gradient_descent", "sgd", "adam", "lbfgs"]}},
    )
    features: Scaling = Field(
        "raw",
        description=DESCRIPTION,
        json_schema_extra={"search": {"choices": ["raw", "standardised", "whitened"]}},
    )
    batch: int | None = Field(64, ge=1, description="rows in a batch of sgd and adam; null: all rows")
    rates: tuple[Rate, ...] | None = Field(
        None,
        min_length=1,
        description="step sizes to choose from, of gradient_descent and sgd in units of 1/L; null: five or six over "
        "two to four powers of ten",
    )

    def adapt(self, model: Network, data: AttackRows) -> Iterator[float]:
        """Train a head for each step size and copy the best into `model`; yields its loss before the step."""
        shift, matrix = scaling(data.x, self.features)
        fit = Rows((data.x - shift) @ matrix, data.y)
        validation = Rows((data.validation.x - shift) @ matrix, data.validation.y)
        rates = self.rates or RATES[self.optimiser]
        heads = [Network(nn.Identity(), zero_linear(fit.x.shape[1], data.classes)) for _ in rates]
        whole = self.batch is None or self.optimiser in ("gradient_descent", "lbfgs")
        batches = repeat(fit) if whole else fit.batches(self.batch or len(fit), data.generator())
        for best, loss in best_of(heads, self._step(heads, rates, fit.x), batches, validation):
            with torch.no_grad():
                weight = best.head.weight @ matrix.T
                model.head.weight.copy_(weight)
                model.head.bias.copy_(best.head.bias - weight @ shift)
            yield loss

    def _step(self, heads: list[Network], rates: tuple[float, ...], x: torch.Tensor) -> Step:
        """The step of every head with its rate. x: features (rows, dim) of all rows."""
        if self.optimiser == "lbfgs":
            return _lbfgs_step(heads[0])
        unit = 1.0 if self.optimiser == "adam" else 1 / _curvature(x)
        groups = [{"params": head.parameters(), "lr": rate * unit} for head, rate in zip(heads, rates, strict=True)]
        if self.optimiser == "adam":
            return together(heads, torch.optim.Adam(groups))
        return together(heads, torch.optim.SGD(groups, lr=unit, momentum=0.9 if self.optimiser == "sgd" else 0.0))


def _lbfgs_step(head: Network) -> Step:
    """One iteration of L-BFGS with a strong-Wolfe line search."""
    optimiser = torch.optim.LBFGS(
        head.parameters(),
        max_iter=1,
        max_eval=25,
        history_size=10,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def step(rows: Rows) -> list[float]:
        def closure() -> float:
            optimiser.zero_grad()
            loss = head.loss(rows)
            loss.backward()
            return float(loss.detach())

        return [float(optimiser.step(closure))]

    return step


def _curvature(x: torch.Tensor) -> float:
    """An upper bound on the curvature of the mean cross-entropy, σ₁²/(2·rows) of the features with a one (Böhning,
    1992)."""
    with_one = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return float(torch.linalg.matrix_norm(with_one, 2)) ** 2 / (2 * len(x))
