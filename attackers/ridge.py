"""Ridge regression in closed form: how many rows does an attacker need?"""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field

from harness import count_gradient
from harness.probe import LinearProbe, ProbeAttacker, Split, TrainingRows, fit_ridge, losses

Rows = Annotated[int, Field(ge=3)]


class Ridge(ProbeAttacker):
    """Ridge regression with the penalty of the least leave-one-out error (Allen, 1974; Golub, Heath & Wahba, 1979).

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
            model.weight.data.copy_(self._fit(Split(x, y if model.kind == "squared" else 4 * y - 2)))
            loss = losses(x @ model.weight.data, y, model.kind)
            yield loss
        while True:
            yield loss

    def _fit(self, data: Split) -> torch.Tensor:
        """The weight (dim) on features of which the last is constant with an intercept."""
        weight, level = fit_ridge(data, self.intercept)
        if self.intercept:
            weight[-1] += level
        return weight
