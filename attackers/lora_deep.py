"""Low-rank adaptation of deep networks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Annotated, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from pydantic import Field
from torch import nn

from attackers._rates import best_of, together
from attackers._scaling import DESCRIPTION, Scaling, scale_features
from harness import RunError
from harness.deep import AttackRows, DeepAttacker, Network

Rate = Annotated[float, Field(gt=0)]


class LoRADeep(DeepAttacker):
    """Low-rank adaptation of linear layers and convolutions, with a new head (Hu et al., 2022).

    Every linear layer and every convolution without groups gets an adapter. The network's own weights and the
    statistics of its BatchNorm layers stay as they are; the head and the adapters, whose product is zero at first, are
    trained with Adam on batches. In a vision transformer the layers are the projections of attention, the feed-forward
    layers and the patch embedding. Features are scaled and step sizes are chosen as by `fine_tuning`.
    """

    name = "lora_deep"

    part: Literal["tail", "network"] = Field(
        "network", description="where the adapters are: tail: in the released tail; network: in the trunk too"
    )
    rank: int = Field(4, ge=1, description="rank of the adapters")
    features: Scaling = Field(
        "standardised",
        description=f"how the head's features are scaled, by their values before the first step; {DESCRIPTION}",
        json_schema_extra={"search": {"choices": ["raw", "standardised", "whitened"]}},
    )
    batch: int = Field(64, ge=1, description="rows in a batch")
    rates: tuple[Rate, ...] = Field((1e-3, 3e-3, 1e-2), min_length=1, description="step sizes to choose from")

    def adapt(self, model: Network, data: AttackRows) -> Iterator[float]:
        """Train copies with adapters and copy the best one into `model`; yields its loss before the step. Raises
        `RunError` if the part has no layer that an adapter fits."""
        scale_features(model, data, self.features)
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.seed)
            if not sum(_add_adapters(module, self.rank) for module in (model.trunk, model.tail)):
                raise RunError(
                    "lora_deep needs a linear layer or a convolution without groups, and the network has none"
                )
        model.head.requires_grad_(True)
        copies = [deepcopy(model) for _ in self.rates]
        groups = [
            {"params": [weight for weight in copy.parameters() if weight.requires_grad], "lr": rate}
            for copy, rate in zip(copies, self.rates, strict=True)
        ]
        step = together(copies, torch.optim.Adam(groups))
        for best, loss in best_of(copies, step, data.batches(self.batch, data.generator()), data.validation):
            model.load_state_dict(best.state_dict())
            yield loss


def _add_adapters(module: nn.Module, rank: int) -> int:
    """Put adapters into the layers of `module`; returns the number of these layers."""
    names = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    ]
    if names:
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules="|".join(map(re.escape, names)))
        inject_adapter_in_model(config, module)
    return len(names)
