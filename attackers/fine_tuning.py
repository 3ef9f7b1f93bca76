"""Fine-tuning of the tail of a deep network, with a new head."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from harness import count_gradient
from harness.deep import AttackRows, DeepAttacker, Network, Rows, seeded_reset

Rate = Annotated[float, Field(gt=0)]


class FineTuning(DeepAttacker):
    """Trains the tail and a new head with Adam on batches (Kingma & Ba, 2015).

    Several copies are trained with one step size each, all on the same batches, and the one with the lowest validation
    loss is the attack, compared after 1, 2, 4, 8, … steps. A step is then one of each copy, and their gradient
    evaluations count. `reset` discards the released tail: what the data and the trunk allow without it.
    """

    name = "fine_tuning"
    trains_tail = True

    batch: int = Field(64, ge=2, description="rows in a batch")
    rates: tuple[Rate, ...] = Field((3e-4, 1e-3, 3e-3), min_length=1, description="step sizes to choose from")
    frozen_statistics: bool = Field(
        False, description="keep the running statistics of BatchNorm layers and use them, instead of the batch's"
    )
    reset: bool = Field(False, description="initialise the tail at random first")

    def adapt(self, model: Network, data: AttackRows) -> Iterator[float]:
        """Train the copies and copy the best one into `model`; yields its loss before the step."""
        if self.reset:
            seeded_reset(model.tail, data.seed)
        copies = [deepcopy(model).train(not self.frozen_statistics) for _ in self.rates]
        groups = [{"params": copy.parameters(), "lr": rate} for copy, rate in zip(copies, self.rates, strict=True)]
        optimiser = torch.optim.Adam(groups)
        best, compared = 0, 1
        for count, rows in enumerate(self._batches(data, data.generator()), 1):
            optimiser.zero_grad()
            losses = torch.stack([copy.loss(rows) for copy in copies])
            losses.sum().backward()
            optimiser.step()
            if len(copies) > 1 and (count == compared or not losses[best].isfinite()):
                best, compared = _best(copies, data.validation), 2 * count
            model.load_state_dict(copies[best].state_dict())
            yield float(losses[best].detach())

    def _batches(self, rows: Rows, generator: torch.Generator) -> Iterator[Rows]:
        """Batches in a new random order in each epoch; a last batch that is smaller is left out."""
        if len(rows) < self.batch:
            raise ValueError(f"batch is {self.batch}, but the attacker has only {len(rows)} rows to train on")
        while True:
            for places in torch.randperm(len(rows), generator=generator).split(self.batch):
                if len(places) == self.batch:
                    yield Rows(rows.x[places], rows.y[places])


@torch.no_grad()
def _best(copies: list[Network], validation: Rows) -> int:
    """The place of the copy with the lowest validation loss; each loss counts as half a gradient evaluation."""
    count_gradient(len(validation), 0.5 * len(copies))
    losses = []
    for copy in copies:
        training = copy.training
        losses.append(nn.functional.cross_entropy(copy.eval()(validation.x), validation.y))
        copy.train(training)
    return int(torch.stack(losses).nan_to_num(torch.inf).argmin())
