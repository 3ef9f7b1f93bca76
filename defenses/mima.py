"""MIMA: immunization against several concepts by differentiating through a merge of models."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from defenses._ascent import SMALL, AscentDefense
from defenses._merge import Merge, Weights, assign
from defenses._unroll import descend
from harness.diffusion import Batch, Concept, Targets, TextToImage, WeightSet


class Mima(AscentDefense):
    """Multi-concept immunization by differentiable model merging (MIMA, AAAI 2025).

    A step has three parts. (1) For each concept, unrolled descent adapts the weights to it (`defenses._unroll`). (2) A
    layer merges the adapted keys and values so that each concept's words keep their meaning (`defenses._merge`); all
    other weights are averaged. (3) The original weights ascend on the merged model's loss on the concepts, with
    gradients through (1) and (2).

    mode: paper: W^p in the merge are the base model's weights. paper-current: W^p are the current weights, as in the
    released code. released: the released code's algorithm, which differentiates through neither (2) nor (1). It
    alternates a descent, whose result replaces the weights, with a plain step of ascent. In the descent each concept's
    loss includes the loss on the pictures to retain; keys and values take a step of size α and are merged, all other
    weights follow the concepts' mean gradient by AdamW with step size α. The released scripts for relearning have α =
    β/3, those for personalization α = β/2. The rows of C are those of the classes' words if each concept has its own
    class, else those of the targets' words, and captions are drawn anew in every descent. An error of that code, which
    trains on the last concept only if concepts share a class, is not reproduced.
    """

    name = "mima"
    presets = {
        "small": {**SMALL, "inner_lr": 1.0},
        "small_styles": {**SMALL, "inner_lr": 1.0, "lr": 1e-3},
        "small_styles_released": {**SMALL, "mode": "released", "inner_lr": 1e-3 / 3, "lr": 1e-3},
        "small_objects": {**SMALL, "inner_lr": 1.0, "lr": 1e-3},
        "small_personal": {**SMALL, "inner_lr": 1.0, "lr": 1e-3},
    }

    mode: Literal["paper", "paper-current", "released"] = Field(
        "paper", description="variant of the method: paper, paper-current or released (see above)"
    )
    inner_steps: int = Field(1, ge=1, le=5, description="number of steps of descent before each ascent")
    inner_lr: float = Field(1e-5, gt=0, description="α, step size of the descent")
    inner_weights: WeightSet | None = Field(
        None, description="the weights that the descent changes; null: keys_values, in the mode released unet"
    )
    normalised: bool = Field(
        False, description="whether an unrolled step has the length α · ‖weights‖; not in the mode released"
    )
    first_order: bool = Field(
        False, description="treat the gradients of the descent as constants; not in the mode released"
    )
    ridge: float = Field(1e-4, ge=0, description="ρ, on the captions' Gram matrix, in units of its mean eigenvalue")
    captions: int = Field(
        200,
        ge=1,
        description="number of captions for C_reg: the first ones of the concept file, or drawn ones (released)",
    )

    @model_validator(mode="after")
    def _unrolled(self) -> Self:
        if self.mode == "released" and (self.normalised or self.first_order):
            raise ValueError("the mode released unrolls no step, so normalised and first_order must be false")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """What the prior needs, and captions for the merge."""
        return (*super().needs, "captions")

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield the concepts' mean loss on new batches, computed with the merged weights."""
        batches = self.batches(targets)
        if self.mode == "released":
            for _ in self._descents(model, targets, batches):
                yield model.denoising_loss(Batch.join(next(batches)))
            return
        pretrained: Weights = model.weights("keys_values")
        if self.mode == "paper":
            pretrained = {name: weight.detach().clone() for name, weight in pretrained.items()}
        merge = self._merge(model, targets, self.prompts(targets), targets.captions[: self.captions])
        weights = model.weights(self.inner_weights or "keys_values")
        unroll = partial(
            descend, model, weights, lr=self.inner_lr, normalised=self.normalised, first_order=self.first_order
        )
        while True:
            steps = [next(batches) for _ in range(self.inner_steps)]
            # no variable holds the adapted weights when the gradient is computed
            yield model.denoising_loss(Batch.join(next(batches)), combined(merge, pretrained, unroll(steps)))

    def _descents(self, model: TextToImage, targets: Targets, batches: Iterator[list[Batch]]) -> Iterator[None]:
        """Descend on the concepts as the released code does, changing the weights of `model`; yields after every
        `inner_steps` steps, without end."""
        classes = [_class_words(subject.concept) for subject in targets]
        prompts = classes if len(set(classes)) == len(classes) else self.prompts(targets)
        each = (replace(targets.only(n), seed=targets.seed + 1 + n) for n in range(len(targets)))
        retained = [self._retained(one) for one in each]  # other draws than those of the ascent
        merged = model.weights("keys_values")
        others = [w for name, w in model.weights(self.inner_weights or "unet").items() if name not in merged]
        trained = model.unfreeze([*merged.values(), *others])
        optimiser = torch.optim.AdamW([{"params": others}], lr=self.inner_lr)
        draw = random.Random(targets.seed)
        for step in count(1):
            captions = draw.sample(targets.captions, min(self.captions, len(targets.captions)))
            merge = self._merge(model, targets, prompts, captions)
            adapted, means = [], [torch.zeros_like(weight) for weight in others]
            for batch, kept in zip(next(batches), retained, strict=True):
                loss = model.denoising_loss(batch)
                if kept is not None:
                    loss = loss + self.prior_weight * model.denoising_loss(next(kept))
                gradients = torch.autograd.grad(loss, trained)
                pairs = zip(merged.values(), gradients, strict=False)
                adapted.append([weight.detach() - self.inner_lr * gradient for weight, gradient in pairs])
                for mean, gradient in zip(means, gradients[len(merged) :], strict=True):
                    mean += gradient / len(targets)
            for weight, mean in zip(others, means, strict=True):
                weight.grad = mean
            optimiser.step()
            by_weight = (torch.stack(parts) for parts in zip(*adapted, strict=True))
            with torch.no_grad():
                assign(model, merge.merged(merged, dict(zip(merged, by_weight, strict=True))))
            if step % self.inner_steps == 0:
                yield

    def _merge(
        self, model: TextToImage, targets: Targets, prompts: list[tuple[str, str]], captions: Sequence[str]
    ) -> Merge:
        """The merge layer for `prompts` (see `prompts`); writes its condition numbers into the notes of `targets`."""
        merge = Merge.layer(model, prompts, captions, self.ridge)
        targets.notes.update(merge.report)
        return merge


def combined(merge: Merge, pretrained: Weights, adapted: Weights) -> Weights:
    """Combine the weights adapted to each concept into the weights of one model: keys and values are merged, all other
    weights averaged.

    pretrained: W^p by name, for all keys and values. adapted: (concepts, …) by name.
    """
    means = {name: weight.mean(0) for name, weight in adapted.items() if name not in pretrained}
    return means | merge.merged(pretrained, adapted)


def _class_words(concept: Concept) -> tuple[str, str]:
    """The class prompt, and the words for the class in it: all of it if they are not known."""
    prompt, words = concept.class_prompt, concept.class_word
    return prompt, words if f" {words} " in f" {prompt} " else prompt
