"""Ridge regression in closed form: how many rows does an attacker need?"""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field

from harness import count_gradient
from harness.probe import LinearProbe, ProbeAttacker, Split, TrainingRows, fit_ridge, losses

Rows = Annotated[int, Field(ge=3)]


class Ridge(ProbeAttacker):
    """Ridge regression with the penalty of the least leave-one-out error (Allen, 1974).

    Step t uses the first 30, 60, 120, … rows (field `rows`) in a random order, and after these steps all rows. It
    evaluates no gradient and counts the rows that a step reads for the first time as samples. An intercept has no
    penalty. For the logistic loss it fits the targets 4y − 2, as that loss's first Newton step does.
    """

    name = "ridge"

    rows: tuple[Rows, ...] = Field((30, 60, 120), description="numbers of rows in the first steps, ascending")

    def adapt(self, model: LinearProbe, data: TrainingRows) -> Iterator[torch.Tensor]:
        """Fit more rows in each step until all are used; yields the loss on the rows used."""
        order = torch.randperm(len(data), generator=data.generator())
        read = 0
        for count in (*(count for count in self.rows if count < len(data)), len(data)):
            x, y = data.x[order[:count]], data.y[order[:count]]
            count_gradient(count - read, 0.0)
            read = count
            weight, intercept = fit_ridge(Split(x, y if model.kind == "squared" else 4 * y - 2), self.intercept)
            weight[-1] += intercept  # the last feature is constant with an intercept, which is 0 without one
            model.weight.data.copy_(weight)
            loss = losses(x @ model.weight.data, y, model.kind)
            yield loss
        while True:
            yield loss
