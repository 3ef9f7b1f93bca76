"""SOPHON and TAR: descent on a loss that fades, at every step of a simulated attacker, with first-order gradients."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Literal

import torch
from pydantic import Field

from defenses import _bilevel as bilevel
from defenses._ascent import SMALL, AscentDefense
from defenses._simulated import denoising, size
from harness.diffusion import Batch, Targets, TextToImage, WeightSet


class Sophon(AscentDefense):
    """First-order descent on a loss after each step of a simulated attacker (SOPHON, S&P 2024; TAR, ICLR 2025).

    An attacker takes K steps on the targets from the weights θ. A loss of the targets is evaluated at its weights after
    some of the steps; the sum of the gradients there is θ's, as if the attacker's moves were constants. The default
    loss is SOPHON's denial of service for diffusion, the mean square of the U-Net's output: unlike minus the denoising
    loss it has a minimum, and its gradient fades near it.

    form: sophon: after every step, with equal weights; a step of Adam on this gradient (fine-tuning suppression)
    alternates with a step of Adam on the pictures to retain (normal training reinforcement). The attacker descends.
    tar: after every fourth step i of K, with the weight 4·exp((i − K + 1)/16); one step of AdamW has the loss of the
    retained pictures too. The attacker takes steps of Adam with a step size drawn from `inner_lrs`. In a third of
    the steps it learns pictures of captions first, and the targets after a share of the steps drawn from Beta(6, 3).
    """

    name = "sophon"
    presets = {
        "small": {**SMALL, "retain_lr": 1e-3, "inner_steps": 6, "inner_lrs": (0.03,)},
        "small_styles": {**SMALL, "inner_steps": 6, "inner_lrs": (0.03,), "lr": 3e-5, "retain_lr": 5e-5},
        "small_tar": {**SMALL, "form": "tar", "inner_steps": 12, "inner_lrs": (1e-4, 3e-4, 1e-3)},
    }

    form: Literal["sophon", "tar"] = Field("sophon", description="variant of the method (see above)")
    steps: int = Field(800, ge=1, description="largest number of steps of the defense")
    lr: float = Field(3e-4, gt=0, description="step size of Adam on the targets' loss")
    retain_lr: float = Field(5e-4, gt=0, description="step size of Adam on the retained pictures; form sophon")
    clip: float = Field(0.5, gt=0, description="largest norm of the targets' gradient in the form sophon; tar has 1")
    weights: WeightSet = Field("unet", description="the weights that the defense changes")
    loss: Literal["denial", "denoising"] = Field(
        "denial",
        description="the targets' loss to minimise: denial: mean square of the U-Net's output; denoising: minus the "
        "denoising loss",
    )
    inner_steps: int = Field(50, ge=1, description="K, number of steps of the attacker")
    inner_lrs: tuple[bilevel.Rate, ...] = Field((1e-4,), min_length=1, description="step sizes of the attacker")

    @property
    def needs(self) -> tuple[str, ...]:
        """What the prior needs, and captions for the benign steps of the form tar."""
        return (*super().needs, *(("captions",) if self.form == "tar" else ()))

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield minus the targets' loss along an attacker's path, with its first-order gradient."""
        named = model.weights(self.weights)
        names, theta = list(named), tuple(named.values())
        batches, draw = map(Batch.join, self.batches(targets)), random.Random(targets.seed)
        benign = replace(targets, seed=targets.seed + 1).kept(self.batch_size) if self.form == "tar" else batches
        evaluated: Callable[..., bilevel.Loss] = size if self.loss == "denial" else denoising
        sign = -1.0 if self.loss == "denial" else 1.0
        optimiser: bilevel.Optimiser = "gd" if self.form == "sophon" else "adam"
        shares = self.shares()
        while True:
            first = self._benign_steps(draw)
            steps = [*islice(benign, first), *islice(batches, self.inner_steps - first)]
            path = bilevel.attack(
                theta, (denoising(model, names, batch) for batch in steps), draw.choice(self.inner_lrs), optimiser
            )
            evaluations = (evaluated(model, names, next(batches)) if share else None for share in shares)
            value, gradient = bilevel.along_path(path, evaluations, [sign * share for share in shares])
            yield bilevel.with_gradient(value, theta, gradient)

    def shares(self) -> list[float]:
        """The weight of the targets' loss after each of the attacker's steps."""
        last = self.inner_steps - 1
        if self.form == "sophon":
            return [1 / self.inner_steps] * self.inner_steps
        return [4 * math.exp((i - last) / 16) if (last - i) % 4 == 0 else 0.0 for i in range(self.inner_steps)]

    def _benign_steps(self, draw: random.Random) -> int:
        """The number of benign steps with which the attacker begins."""
        if self.form == "sophon" or draw.random() >= 1 / 3:
            return 0
        return round(draw.betavariate(6, 3) * self.inner_steps)

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Train `model`; yields minus the targets' loss after every step."""
        if self.form == "tar":
            yield from super().immunize(model, targets)
            return
        retained = self._retained(targets)
        weights = model.unfreeze(list(model.weights(self.weights).values()))
        suppress, reinforce = (torch.optim.Adam(weights, lr=lr) for lr in (self.lr, self.retain_lr))
        try:
            for _, loss in zip(range(self.steps), self.harmful_losses(model, targets), strict=False):
                _step(suppress, weights, -loss, self.clip)
                if retained is not None:
                    _step(reinforce, weights, model.denoising_loss(next(retained)), math.inf)
                yield loss.detach()
                if self.stop_at is not None and loss >= self.stop_at:
                    return
        finally:
            model.freeze()


def _step(optimiser: torch.optim.Optimizer, weights: list[torch.nn.Parameter], loss: torch.Tensor, clip: float) -> None:
    """One step of descent on `loss`, whose gradient has at most the norm `clip`."""
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    torch.nn.utils.clip_grad_norm_(weights, clip)
    optimiser.step()
