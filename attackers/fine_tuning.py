"""Fine-tuning of the tail of a deep network or of the whole network, with a new head."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Annotated, Literal

import torch
from pydantic import Field

from attackers._rates import best_of, together
from attackers._scaling import DESCRIPTION, Scaling, scale_features
from harness.deep import AttackRows, DeepAttacker, Network, seeded_reset

Rate = Annotated[float, Field(gt=0)]


class FineTuning(DeepAttacker):
    """Trains a new head and the tail, or the whole network, with Adam on batches (Kingma & Ba, 2015).

    The head learns from scaled features, so one step size fits the head and the weights below, however large or small
    the released features are.
    Several copies are trained with one step size each, all on the same batches, and the one with the lowest validation
    loss is the attack, compared after 1, 2, 4, 8, … steps. A step is then one of each copy, and their gradient
    evaluations count. `reset` discards what was released: what the data and the public trunk allow without it.
    """

    name = "fine_tuning"

    part: Literal["tail", "network"] = Field("tail", description="tail: the released tail; network: the trunk too")
    features: Scaling = Field(
        "standardised",
        description=f"how the head's features are scaled, by their values before the first step; {DESCRIPTION}",
        json_schema_extra={"search": {"choices": ["raw", "standardised", "whitened"]}},
    )
    batch: int = Field(64, ge=2, description="rows in a batch")
    rates: tuple[Rate, ...] = Field((3e-4, 1e-3, 3e-3), min_length=1, description="step sizes to choose from")
    frozen_statistics: bool = Field(
        False, description="keep the running statistics of BatchNorm layers and use them, instead of the batch's"
    )
    reset: bool = Field(False, description="initialise the tail at random first, and drop a map of the features")

    def adapt(self, model: Network, data: AttackRows) -> Iterator[float]:
        """Train the copies and copy the best one into `model`; yields its loss before the step."""
        if self.reset:
            seeded_reset(model.tail, data.seed)
            model.map = None
        scale_features(model, data, self.features)
        copies = [deepcopy(model).train(not self.frozen_statistics) for _ in self.rates]
        groups = [{"params": copy.parameters(), "lr": rate} for copy, rate in zip(copies, self.rates, strict=True)]
        step = together(copies, torch.optim.Adam(groups))
        for best, loss in best_of(copies, step, data.batches(self.batch, data.generator()), data.validation):
            model.load_state_dict(best.state_dict())
            yield loss
