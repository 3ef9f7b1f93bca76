"""MIMA with other answers to its two questions: how to differentiate an attack, and how to combine what it reaches."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from defenses import _bilevel as bilevel
from defenses import _combine
from defenses._merge import Weights
from defenses._simulated import denoising
from defenses._unroll import descend
from defenses.mima import Mima
from harness.diffusion import Batch, Targets, TextToImage

Combination = Callable[[Weights], dict[str, torch.Tensor]]
"""From the weights adapted to each concept, (concepts, …) by name, to those of one model."""


class MimaVariant(Mima):
    """MIMA's ascent (AAAI 2025) with implicit gradients, or with another combination of the models (our variants).

    gradients: unrolled: as in `mima`. implicit: each concept's weights ω descend on L(ω) + ‖ω − θ‖²/(2γ), and the
    derivative is that of the minimum, as in `resalign` (NeurIPS 2025): with the Hessian H of L at ω, (I + γH)⁻¹ applied
    to the gradient by K of Richardson's iterations. combine: merge: as in `mima`. low_rank: the merge of changes of
    rank r. mean: the mean over concepts. ties: masks by size and sign (TIES, Yadav et al., 2023). Keys and values
    alone adapt; `mode` and `inner_weights` stay at their defaults.
    """

    name = "mima_variant"
    presets = {
        "small_styles": {**Mima.presets["small_styles"]},
        "small_styles_implicit": {
            **Mima.presets["small_styles"],
            "gradients": "implicit",
            "weights": "keys_values",
            "inner_lr": 0.03,
            "implicit_steps": 6,
            "gamma": 0.03,
        },
    }

    gradients: Literal["unrolled", "implicit"] = Field("unrolled", description="derivative of the descent (see above)")
    implicit_steps: int = Field(6, ge=1, description="number of steps of the descent of implicit gradients")
    gamma: float = Field(0.03, gt=0, description="γ, size of the envelope of implicit gradients")
    products: int = Field(5, ge=1, description="K, number of Richardson's iterations of implicit gradients")
    combine: Literal["merge", "low_rank", "mean", "ties"] = Field("merge", description="combination (see above)")
    rank: int = Field(4, ge=1, description="r, rank of each concept's change for low_rank")
    density: float = Field(0.2, gt=0, le=1, description="share of the entries of a change that TIES keeps")

    @model_validator(mode="after")
    def _keys_and_values(self) -> Self:
        if self.mode != "paper" or self.inner_weights not in (None, "keys_values"):
            raise ValueError("mima_variant has the mode paper and adapts keys_values: use mima for the others")
        return self

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield the concepts' mean loss on new batches, computed with the combined weights."""
        batches, named = self.batches(targets), model.weights("keys_values")
        pretrained = {name: weight.detach().clone() for name, weight in named.items()}
        combine = self._combination(model, targets, pretrained)
        while True:
            if self.gradients == "implicit":
                yield self._implicit(model, batches, dict(named), combine)
                continue
            steps = [next(batches) for _ in range(self.inner_steps)]
            unroll = partial(descend, lr=self.inner_lr, normalised=self.normalised, first_order=self.first_order)
            yield model.denoising_loss(Batch.join(next(batches)), combine(unroll(model, named, steps)))

    def _combination(self, model: TextToImage, targets: Targets, pretrained: Weights) -> Combination:
        if self.combine == "mean":
            return partial(_combine.mean, pretrained)
        if self.combine == "ties":
            return partial(_combine.ties, pretrained, density=self.density)
        merge = self._merge(model, targets, self.prompts(targets), targets.captions[: self.captions])
        if self.combine == "merge":
            return partial(merge.merged, pretrained)
        return lambda adapted: merge.merged(pretrained, _combine.low_rank(pretrained, adapted, self.rank))

    def _implicit(
        self, model: TextToImage, batches: Iterator[list[Batch]], named: dict[str, torch.Tensor], combine: Combination
    ) -> torch.Tensor:
        """The loss of the combined weights, with the implicit gradient."""
        names, theta = list(named), tuple(named.values())
        steps, curved, last = list(islice(batches, self.implicit_steps)), next(batches), Batch.join(next(batches))
        ends = []
        for n in range(len(curved)):
            losses = (bilevel.near(denoising(model, names, step[n]), theta, self.gamma) for step in steps)
            *_, end = bilevel.attack(theta, losses, self.inner_lr)
            ends.append(end)
        adapted = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        value, right = bilevel.gradient(
            lambda weights: model.denoising_loss(last, combine(dict(zip(names, weights, strict=True)))), adapted
        )
        total = tuple(torch.zeros_like(weight) for weight in theta)
        for n, end in enumerate(ends):
            product = bilevel.hessian(denoising(model, names, curved[n], twice=True), end)
            own = tuple(part[n] for part in right)
            solved = bilevel.richardson(product, own, products=self.products, gamma=self.gamma)
            total = bilevel.add(total, solved)
        return bilevel.with_gradient(value, theta, total)
