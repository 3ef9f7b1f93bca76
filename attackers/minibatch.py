"""Mini-batches with a tuned step size: how people fine-tune."""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Annotated, Literal

import torch
from pydantic import Field

from harness.probe import LinearProbe, ProbeAttacker, Split, TrainingRows

Rate = Annotated[float, Field(gt=0)]
Optimiser = Literal["adam", "sgd"]
RATES: dict[Optimiser, tuple[float, ...]] = {
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    "sgd": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0),
}
"""Step sizes to choose from, of sgd in units of 1/L with L the largest curvature of the loss."""


class Minibatch(ProbeAttacker):
    """Adam (Kingma & Ba, 2015) or stochastic gradient descent with momentum (Polyak, 1964) on batches of rows.

    Without a given step size it trains a probe with each of several on four fifths of the rows, all on the same
    batches, and holds the one with the lowest loss on the other fifth, compared after 1, 2, 4, 8, … steps. A step is
    then one batch for each of these probes, and their gradient evaluations count: the search is a part of the attack.
    """

    name = "minibatch"

    optimiser: Optimiser = Field(
        "adam",
        description="Adam, or gradient descent with momentum 0.9",
        json_schema_extra={"search": {"choices": ["adam", "sgd"]}},
    )
    batch: int | None = Field(
        64,
        ge=1,
        description="rows in a batch; null: all rows",
        json_schema_extra={"search": {"choices": [16, 64, 256]}},
    )
    lr: float | None = Field(
        None,
        gt=0,
        description="step size, of sgd in units of 1/L with L the largest curvature of the loss; null: the best of "
        "`rates`",
        json_schema_extra={"search": {"low": 1e-4, "high": 10.0, "log": True}},
    )
    rates: tuple[Rate, ...] | None = Field(
        None, min_length=1, description="step sizes to choose from, as `lr`; null: nine over four powers of ten"
    )
    period: int | None = Field(
        None,
        ge=1,
        description="steps in which the step size falls to zero along a cosine before it starts anew (Loshchilov & "
        "Hutter, 2017); null: it is constant",
    )

    def adapt(self, model: LinearProbe, data: TrainingRows) -> Iterator[float]:
        """Take one step a batch, in a new random order of the rows in each epoch; yields the loss of the best probe on
        the batch before the step."""
        rates = (self.rates or RATES[self.optimiser]) if self.lr is None else (self.lr,)
        fit, validation = data.split() if self.lr is None else (data, data)
        probes = [deepcopy(model) for _ in rates]
        unit = 1.0 if self.optimiser == "adam" else 1 / model.smoothness(fit)
        groups = [{"params": probe.weight, "lr": rate * unit} for probe, rate in zip(probes, rates, strict=True)]
        optimiser: torch.optim.Optimizer = (
            torch.optim.Adam(groups) if self.optimiser == "adam" else torch.optim.SGD(groups, lr=unit, momentum=0.9)
        )
        schedule = self.period and torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, self.period)
        best, compared = 0, 1
        for step, rows in enumerate(self._batches(fit, data.generator()), 1):
            losses = []
            for probe in probes:
                loss, probe.weight.grad = probe.gradient(rows)
                losses.append(float(loss))
            optimiser.step()
            if schedule:
                schedule.step()
            if len(probes) > 1 and (step == compared or not math.isfinite(losses[best])):
                best, compared = self._best(probes, validation), 2 * step
            model.weight.data.copy_(probes[best].weight.data)
            yield losses[best]

    def _batches(self, data: Split, generator: torch.Generator) -> Iterator[Split]:
        while True:
            for rows in torch.randperm(len(data), generator=generator).split(self.batch or len(data)):
                yield Split(data.x[rows], data.y[rows])

    @staticmethod
    @torch.no_grad()
    def _best(probes: Sequence[LinearProbe], validation: Split) -> int:
        """The place of the probe with the lowest loss; each loss counts as a gradient evaluation."""
        losses = torch.stack([probe.loss(validation) for probe in probes])
        return int(losses.nan_to_num(torch.inf).argmin())
