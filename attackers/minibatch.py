"""Mini-batches with a tuned step size: how people fine-tune."""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Annotated, Literal

import torch
from pydantic import Field

from harness.probe import LinearProbe, ProbeAttacker, Split, TrainingRows

Rate = Annotated[float, Field(gt=0)]


class Minibatch(ProbeAttacker):
    """Adam (Kingma & Ba, 2015) or stochastic gradient descent with momentum (Polyak, 1964) on batches of rows.

    Without a given step size it trains a probe with each of `rates` on four fifths of the rows, all on the same
    batches, and holds the one with the lowest loss on the other fifth, compared after 1, 2, 4, 8, … steps. A step is
    then one batch for each of these probes, and their gradient evaluations count: the search is a part of the attack.
    """

    name = "minibatch"

    optimiser: Literal["adam", "sgd"] = Field("adam", description="Adam, or gradient descent with momentum 0.9")
    batch: int | None = Field(64, ge=1, description="rows in a batch; null: all rows")
    lr: float | None = Field(None, gt=0, description="step size; null: the best of `rates`")
    rates: tuple[Rate, ...] = Field(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0), min_length=1, description="step sizes to choose from"
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
        rates = self.rates if self.lr is None else (self.lr,)
        fit, validation = data.split() if self.lr is None else (data, data)
        probes = [deepcopy(model) for _ in rates]
        groups = [{"params": probe.weight, "lr": rate} for probe, rate in zip(probes, rates, strict=True)]
        optimiser: torch.optim.Optimizer = (
            torch.optim.Adam(groups) if self.optimiser == "adam" else torch.optim.SGD(groups, lr=1.0, momentum=0.9)
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
