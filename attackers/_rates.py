"""Trains copies of a network with one step size each and goes on with the best: a search that is part of an attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from harness import count_gradient
from harness.deep import Network, Rows

Step = Callable[[Rows], Sequence[float]]
"""Takes one step of every copy on a batch and returns their losses before it."""


def best_of(
    copies: Sequence[Network], step: Step, batches: Iterable[Rows], validation: Rows
) -> Iterator[tuple[Network, float]]:
    """Train `copies` and yield, after every step, the best one with its loss on the batch before the step.

    step: takes one step of every copy. batches: the training batches, without end. validation: the rows that decide,
    after 1, 2, 4, 8, … steps and when the best copy's loss is not finite.
    """
    best, compared = 0, 1
    for count, rows in enumerate(batches, 1):
        losses = step(rows)
        if len(copies) > 1 and (count == compared or not math.isfinite(losses[best])):
            best, compared = _best(copies, validation), 2 * count
        yield copies[best], losses[best]


def together(copies: Sequence[Network], optimiser: torch.optim.Optimizer) -> Step:
    """The step of an optimiser that has the parameters of all `copies`."""

    def step(rows: Rows) -> Sequence[float]:
        optimiser.zero_grad()
        losses = torch.stack([copy.loss(rows) for copy in copies])
        losses.sum().backward()
        optimiser.step()
        return [float(loss) for loss in losses.detach()]

    return step


@torch.no_grad()
def _best(copies: Sequence[Network], validation: Rows) -> int:
    """The place of the copy with the lowest validation loss, in inference mode; each loss counts as half a gradient
    evaluation."""
    count_gradient(len(validation) * len(copies), 0.5 * len(copies))
    losses = []
    for copy in copies:
        training = copy.training
        losses.append(nn.functional.cross_entropy(copy.eval()(validation.x), validation.y))
        copy.train(training)
    return int(torch.stack(losses).nan_to_num(torch.inf).argmin())
