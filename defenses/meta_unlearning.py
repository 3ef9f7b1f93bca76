"""Meta-Unlearning: a model whose fine-tuning on the targets damages what it should keep."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional

from defenses import _bilevel as bilevel
from defenses._ascent import SMALL, AscentDefense
from defenses._simulated import denoising
from harness.diffusion import Batch, Targets, TextToImage, WeightSet

RELEASED: dict[str, Any] = {
    "mode": "released",
    "steps": 60,
    "batch_size": 4,
    "inner_steps": 5,
    "inner_lr": 3e-4,
    "prior_images": 20,
}


class MetaUnlearning(AscentDefense):
    """Ascent on the loss of targets and retained pictures after an attack: self-destruction (Gao et al., ICCV 2025).

    With θ_FT the weights after M steps of an attacker on the targets, L_FT the denoising loss of the targets and L_ret
    that of pictures to retain, the method of "Meta-Unlearning on Diffusion Models" descends on

        L_unlearn(θ) − L_FT(θ_FT) − ζ [L_ret(θ_FT) − L_ret(θ)].

    To first order in the attacker's step size this shrinks the gradient of L_FT and turns it against that of L_ret, so
    that an attacker who relearns a target unlearns the rest.

    mode: paper: the attacker takes steps of gradient descent, and the gradient goes through them. L_ret is the loss of
    pictures of captions. released: the first-order gradient of the released code. The attacker takes steps of Adam.
    Two kinds of pictures are retained, of the targets' class prompts (related) and of captions (unrelated), each with
    a weight of its loss at θ and at θ_FT. Each of these losses is summed over `inner_steps` batches. The defaults of
    the weights are those with which the scripts for models erased by UCE run.
    """

    name = "meta_unlearning"
    presets = {
        "small": {**SMALL, "weights": "unet", "inner_lr": 0.03, "inner_steps": 2},
        "small_styles": {**SMALL, "weights": "unet", "inner_lr": 0.03, "inner_steps": 2, "lr": 1e-4},
        "small_released": RELEASED,
    }

    mode: Literal["paper", "released"] = Field("paper", description="variant of the method (see above)")
    steps: int = Field(100, ge=1, description="largest number of steps of the ascent")
    lr: float = Field(1e-5, gt=0, description="AdamW's step size")
    weights: WeightSet = Field("unet", description="the weights that the ascent changes")
    prior: Literal["class", "captions", "none"] = Field("none", description="pictures to retain at θ, as in MIMA")
    unlearning: Literal["none", "esd"] = Field(
        "none",
        description="L_unlearn: none: the base model is erased already, and retained pictures keep it so; esd: the "
        "outputs for a target's prompt approach those of the base model without a prompt, less `guidance` times the "
        "difference that the prompt makes (ESD, Gandikota et al., 2023)",
    )
    guidance: float = Field(3.0, ge=0, description="negative guidance of ESD")
    inner_steps: int = Field(5, ge=1, le=50, description="M, number of steps of the attacker")
    inner_lr: float = Field(1e-5, gt=0, description="step size of the attacker")
    zeta: float = Field(1.0, ge=0, description="ζ; mode paper")
    related: float = Field(0.1, ge=0, description="weight of the related pictures' loss at θ; mode released")
    unrelated: float = Field(0.1, ge=0, description="weight of the unrelated pictures' loss at θ; mode released")
    harmful_after: float = Field(0.01, ge=0, description="weight of the targets' loss at θ_FT; mode released")
    related_after: float = Field(1.0, ge=0, description="weight of the related pictures' loss at θ_FT; mode released")
    unrelated_after: float = Field(
        1.0, ge=0, description="weight of the unrelated pictures' loss at θ_FT; mode released"
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """Captions and, in the mode released, the class prompts."""
        return (*super().needs, "captions", *(("class_prompt",) if self.mode == "released" else ()))

    def class_images(self) -> int:
        """Number of pictures of the class prompts, of which the mode released reads `inner_steps` batches in each
        step."""
        if self.mode == "paper":
            return super().class_images()
        return min(self.prior_images, self.steps * self.batch_size * 2 * self.inner_steps)

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield minus the objective on new batches, with the gradient of the mode."""
        named = model.weights(self.weights)
        names, theta = list(named), tuple(named.values())
        original = {name: weight.detach().clone() for name, weight in named.items()}
        batches = map(Batch.join, self.batches(targets))
        kept = replace(targets, seed=targets.seed + 1).kept(self.batch_size)  # other draws than those of a prior
        related = targets.classes(self.prior_images, self.batch_size) if self.mode == "released" else None
        while True:
            if related is None:
                objective = self._unrolled(model, names, theta, batches, next(kept))
            else:
                objective = self._first_order(model, names, theta, batches, related, kept)
            if self.unlearning == "esd":
                unlearn = esd(model, names, next(batches), original, self.guidance)
                value, gradient = bilevel.gradient(unlearn, theta)
                objective = objective - bilevel.with_gradient(value, theta, gradient)
            yield objective

    def _unrolled(
        self, model: TextToImage, names: list[str], theta: bilevel.Weights, batches: Iterator[Batch], kept: Batch
    ) -> torch.Tensor:
        """L_FT(θ_FT) + ζ [L_ret(θ_FT) − L_ret(θ)], with the gradient through the attacker's steps."""
        steps = (denoising(model, names, batch, twice=True) for batch in islice(batches, self.inner_steps))
        adapted = bilevel.unroll(theta, steps, self.inner_lr)[-1]
        harm, retained = (denoising(model, names, batch) for batch in (next(batches), kept))
        objective = harm(adapted) + self.zeta * (retained(adapted) - retained(theta))
        return bilevel.with_gradient(objective, theta, torch.autograd.grad(objective, theta))

    def _first_order(
        self,
        model: TextToImage,
        names: list[str],
        theta: bilevel.Weights,
        batches: Iterator[Batch],
        related: Iterator[Batch],
        kept: Iterator[Batch],
    ) -> torch.Tensor:
        """The weighted losses at θ_FT minus those at θ, with their gradients there in place of its own."""
        steps = (denoising(model, names, batch) for batch in islice(batches, self.inner_steps))
        *_, adapted = bilevel.attack(theta, steps, self.inner_lr, "adam")
        objective = theta[0].new_zeros(())
        for at, weight, drawn in (
            (theta, -self.unrelated, kept),
            (theta, -self.related, related),
            (adapted, self.harmful_after, batches),
            (adapted, self.related_after, related),
            (adapted, self.unrelated_after, kept),
        ):
            for batch in islice(drawn, self.inner_steps if weight else 0):
                value, gradient = bilevel.gradient(denoising(model, names, batch), at)
                objective = objective + weight * bilevel.with_gradient(value, theta, gradient)
        return objective


def esd(
    model: TextToImage, names: Sequence[str], batch: Batch, original: Mapping[str, torch.Tensor], guidance: float
) -> bilevel.Loss:
    """ESD's loss (Gandikota et al., 2023, Eq. 6) on `batch` as a function of the U-Net weights with these `names`: the
    mean squared difference of the outputs from e(∅) − η [e(c) − e(∅)], where e are outputs with the weights `original`
    (by name), with the batch's prompts c or without a prompt.

    The noised pictures are those of the batch; ESD's authors take partly denoised ones of the model that is trained.
    guidance: η.
    """
    with torch.no_grad():
        empty = model.predictions(replace(batch, prompts=[""] * len(batch.prompts)), original)
        goal = empty - guidance * (model.predictions(batch, original) - empty)

    def loss(weights: bilevel.Weights) -> torch.Tensor:
        return functional.mse_loss(model.predictions(batch, dict(zip(names, weights, strict=True))), goal)

    return loss
