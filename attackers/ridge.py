"""Ridge regression in closed form: how many rows does an attacker need?"""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field

from harness import count_gradient
from harness.probe import LinearProbe, ProbeAttacker, TrainingRows, losses

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
            model.weight.data.copy_(self._fit(x, y if model.kind == "squared" else 4 * y - 2))
            loss = losses(x @ model.weight.data, y, model.kind)
            yield loss
        while True:
            yield loss

    def _fit(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The weight (dim) on features x (rows, dim), of which the last is constant with an intercept."""
        mean, level = x.mean(0) * self.intercept, y.mean() * self.intercept
        x, y = x - mean, y - level
        gram = x @ x.T
        if self.intercept:  # makes the constant vector the last eigenvector, which no penalty applies to
            gram += gram.trace() / len(y)
        values, vectors = torch.linalg.eigh(gram)
        used = len(y) - self.intercept
        values, vectors = values[:used].clamp(min=1e-30), vectors[:, :used]
        penalties = values[-1] * torch.logspace(-12, 1, 53, dtype=torch.float64)
        inverse = 1 / (values[:, None] + penalties)
        dual = vectors @ (inverse * (vectors.T @ y)[:, None])
        residuals = dual / (vectors.square() @ inverse)  # of each row, if the others alone are fitted
        weight = x.T @ dual[:, residuals.square().sum(0).argmin()]
        if self.intercept:
            weight[-1] = level - mean[:-1] @ weight[:-1]
        return weight
