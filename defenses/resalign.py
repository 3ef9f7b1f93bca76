"""ResAlign: ascent on the loss after a simulated fine-tuning, with implicit gradients."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Annotated, Any, Literal, Self, get_args

import torch
from pydantic import Field, model_validator

from defenses import _bilevel as bilevel
from defenses._ascent import AscentDefense
from defenses._simulated import denoising, drift
from harness.diffusion import Batch, Targets, TextToImage, WeightSet

SMALL: dict[str, Any] = {
    "steps": 60,
    "batch_size": 4,
    "retain_weight": 5.0,
    "attackers": 1,
    "attack_steps": (3, 6),
    "gd_lr": (0.03,),
    "adam_lr": (3e-4,),
    "gamma": 0.03,
}


class ResAlign(AscentDefense):
    """Ascent on the targets' loss before and after a sampled attacker's fine-tuning (ResAlign, NeurIPS 2025).

    With the denoising losses L of the targets and L_FT of the attacker's data, each step ascends on
    (1 − β) L(θ) + β L(θ*) − α R(θ), where θ* is what an attacker makes of the weights θ, and R is the mean squared
    difference of the U-Net's outputs from those of the undefended weights, on pictures of captions. The derivative of
    θ* is that of the minimum of L_FT(ω) + ‖ω − θ‖²/(2γ), a Moreau envelope: with the Hessian H of L_FT at θ*, the
    gradient of L(θ*) is (I + γH)⁻¹ ∇L(θ*), which a few of Richardson's iterations approximate. Attackers are sampled
    in every step: their data, weights, optimiser, step size and number of steps.

    mode: paper: attackers descend on the envelope's objective. released: they descend on L_FT alone, γ is 1, the
    iteration has the safeguards of the released code (`defenses._bilevel.guarded_richardson`; if they fail an attacker
    contributes the gradient at θ only), α rises from `retain_weight` to 1.25 times that in the second half of the
    steps, and the gradient is multiplied by 0.3.
    """

    name = "resalign"
    presets = {"small": SMALL, "small_styles": {**SMALL, "lr": 3e-4}}

    mode: Literal["paper", "released"] = Field("paper", description="variant of the method (see above)")
    steps: int = Field(160, ge=1, description="largest number of steps of the ascent")
    lr: float = Field(2e-4, gt=0, description="AdamW's step size")
    weights: WeightSet = Field("attention", description="the weights that the ascent changes")
    prior: Literal["class", "captions", "none"] = Field(
        "none", description="pictures to retain by their denoising loss, as in MIMA, in addition to R"
    )
    beta: float = Field(0.8, ge=0, le=1, description="β, weight of the loss after the attack")
    retain_weight: float = Field(1.6, ge=0, description="α, weight of R")
    attackers: int = Field(3, ge=1, description="attackers sampled in a step; their gradients are averaged")
    attack_data: tuple[Literal["harmful", "benign"], ...] = Field(
        ("harmful", "benign"),
        min_length=1,
        description="data of attackers: harmful: the targets' pictures; benign: pictures of captions",
    )
    attack_weights: tuple[WeightSet, ...] = Field(
        ("attention", "unet"), min_length=1, description="sets of weights of attackers, which include `weights`"
    )
    attack_optimisers: tuple[bilevel.Optimiser, ...] = Field(
        ("gd", "adam"), min_length=1, description="optimisers of attackers: gradient descent (gd) and Adam (adam)"
    )
    attack_steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (5, 10, 20, 30), min_length=1, description="numbers of steps of attackers"
    )
    gd_lr: tuple[bilevel.Rate, ...] = Field(
        (1e-4, 1e-5, 1e-6), min_length=1, description="step sizes of attackers with gradient descent"
    )
    adam_lr: tuple[bilevel.Rate, ...] = Field(
        (1e-4, 1e-5, 1e-6), min_length=1, description="step sizes of attackers with Adam"
    )
    products: int = Field(5, ge=1, description="K, number of Richardson's iterations")
    gamma: float = Field(1.0, gt=0, description="γ, size of the envelope; mode paper")
    limit: float = Field(0.2, gt=0, description="largest norm of the gradient in the mode released")

    @model_validator(mode="after")
    def _nested(self) -> Self:
        sets = get_args(WeightSet)
        if any(sets.index(attacked) < sets.index(self.weights) for attacked in self.attack_weights):
            raise ValueError(f"attackers must train all weights that the ascent changes, which are '{self.weights}'")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """What the prior needs, and captions for R."""
        return (*super().needs, "captions")

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield (1 − β) L(θ) + β L(θ*) − α R(θ) on new batches, with the gradient above."""
        named = model.weights(self.weights)
        names, theta = list(named), tuple(named.values())
        original = {name: weight.detach().clone() for name, weight in named.items()}
        batches, kept = self.batches(targets), targets.kept(self.batch_size)
        draw = random.Random(targets.seed)
        benign = replace(targets, seed=targets.seed + 1).kept(self.batch_size)  # other draws than those of R
        for step in count():
            last = Batch.join(next(batches))
            harm, direct = bilevel.gradient(denoising(model, names, last), theta)
            moved, pull = bilevel.gradient(drift(model, names, next(kept), original), theta)
            alpha = self.retain_weight * self._rise(step)
            value = (1 - self.beta) * harm - alpha * moved
            direct = bilevel.add(tuple((1 - self.beta) * part for part in direct), pull, -alpha)
            total = direct
            for _ in range(self.attackers):
                reached, implicit = self._attack(
                    model, draw, batches, benign, last, dict(zip(names, direct, strict=True))
                )
                value = value + self.beta * reached / self.attackers
                total = bilevel.add(total, implicit, 1 / self.attackers)
            rate = 0.3 if self.mode == "released" else 1.0
            yield bilevel.with_gradient(value, theta, tuple(rate * part for part in total))

    def _rise(self, step: int) -> float:
        """α over its first value."""
        past = 2 * step / self.steps - 1
        return 1 + 0.25 / (1 + math.exp(5 - 10 * past)) if self.mode == "released" and past > 0 else 1.0

    def _attack(
        self,
        model: TextToImage,
        draw: random.Random,
        batches: Iterator[list[Batch]],
        benign: Iterator[Batch],
        last: Batch,
        direct: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, bilevel.Weights]:
        """Sample an attacker; returns L(θ*) and β times its gradient with respect to θ.

        batches, benign: what attackers read. last: the batch of L. direct: the rest of the step's gradient, by name.
        """
        named = model.weights(draw.choice(self.attack_weights))
        names, start = list(named), tuple(named.values())
        optimiser = draw.choice(self.attack_optimisers)
        lr = draw.choice(self.gd_lr if optimiser == "gd" else self.adam_lr)
        steps, harmful = draw.choice(self.attack_steps), draw.choice(self.attack_data) == "harmful"
        drawn = map(Batch.join, batches) if harmful else benign
        losses = (denoising(model, names, batch) for batch in islice(drawn, steps))
        if self.mode == "paper":
            losses = (bilevel.near(loss, start, self.gamma) for loss in losses)
        *_, adapted = bilevel.attack(start, losses, lr, optimiser)
        product = bilevel.hessian(denoising(model, names, next(drawn), twice=True), adapted)
        reached, right = bilevel.gradient(denoising(model, names, last), adapted)
        right = tuple(self.beta * part for part in right)
        none = {name: torch.zeros_like(part) for name, part in zip(names, right, strict=True)}
        implicit: bilevel.Weights | None
        if self.mode == "paper":
            implicit = bilevel.richardson(product, right, products=self.products, gamma=self.gamma)
        else:
            padded = tuple((none | direct).values())
            implicit = bilevel.guarded_richardson(product, right, padded, products=self.products, limit=self.limit)
        found = none if implicit is None else dict(zip(names, implicit, strict=True))
        return reached, tuple(found[name] for name in direct)
