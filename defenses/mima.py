"""MIMA: immunization against several concepts by differentiating through a merge of models."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field

from defenses._ascent import SMALL, AscentDefense
from defenses._merge import Merge, Weights, assign
from defenses._unroll import descend
from harness.diffusion import Batch, Targets, TextToImage, WeightSet


class Mima(AscentDefense):
    """Multi-concept immunization by differentiable model merging (MIMA, AAAI 2025).

    A step has three parts. (1) For each concept, unrolled descent adapts the weights to it (`defenses._unroll`). (2) A
    layer merges the adapted keys and values so that each concept's words keep their meaning (`defenses._merge`); all
    other weights are averaged. (3) The original weights ascend on the merged model's loss on the concepts, with
    gradients through (1) and (2).

    mode: paper: W^p in the merge are the base model's weights. paper-current: W^p are the current weights, as in the
    released code. released: the released code's algorithm. It alternates a descent, whose merged result replaces the
    weights, with a plain step of ascent, and differentiates through neither. It takes the rows of C from the class
    prompts if each concept has its own, else from the targets' prompts, and draws new captions at every step. An error
    of that code, which trains on the last concept only, is not reproduced.
    """

    name = "mima"
    presets = {
        "small": {**SMALL, "inner_lr": 1.0},
        "small_styles": {**SMALL, "inner_lr": 1.0, "lr": 1e-3},
        "small_objects": {**SMALL, "inner_lr": 1.0, "lr": 6e-4},
        "small_personal": {**SMALL, "inner_lr": 1.0, "lr": 1e-3},
    }

    mode: Literal["paper", "paper-current", "released"] = Field(
        "paper", description="variant of the method: paper, paper-current or released (see above)"
    )
    inner_steps: int = Field(1, ge=1, le=5, description="number of unrolled steps of descent")
    inner_lr: float = Field(1e-5, gt=0, description="α, step size of the unrolled steps")
    inner_weights: WeightSet = Field("keys_values", description="the weights that the unrolled steps change")
    normalised: bool = Field(False, description="whether an unrolled step has the length α · ‖weights‖")
    first_order: bool = Field(False, description="treat the gradients of the descent as constants")
    ridge: float = Field(1e-4, ge=0, description="ρ, on the captions' Gram matrix, in units of its mean eigenvalue")
    captions: int = Field(
        200,
        ge=1,
        description="number of captions for C_reg: the first ones of the concept file, or drawn ones (released)",
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """What the prior needs, and captions for the merge."""
        return (*super().needs, "captions")

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield the concepts' mean loss on new batches, computed with the merged weights."""
        batches = self.batches(targets)
        if self.mode == "released":
            yield from self._alternation(model, targets, batches)
            return
        pretrained: Weights = model.weights("keys_values")
        if self.mode == "paper":
            pretrained = {name: weight.detach().clone() for name, weight in pretrained.items()}
        merge = self._merge(model, targets, self.prompts(targets), targets.captions[: self.captions])
        while True:
            adapted = self._adapted(model, batches, self.first_order)
            yield model.denoising_loss(Batch.join(next(batches)), combined(merge, pretrained, adapted))

    def _alternation(
        self, model: TextToImage, targets: Targets, batches: Iterator[list[Batch]]
    ) -> Iterator[torch.Tensor]:
        """Yield the loss that the released code ascends: that of the model after the merged weights have replaced its
        own."""
        classes = [(subject.concept.class_prompt, "") for subject in targets]
        prompts = classes if len(set(classes)) == len(classes) else self.prompts(targets)
        draw = torch.Generator().manual_seed(targets.seed)
        while True:
            drawn = torch.randint(len(targets.captions), (self.captions,), generator=draw)
            merge = self._merge(model, targets, prompts, [targets.captions[i] for i in drawn])
            adapted = self._adapted(model, batches, first_order=True)
            assign(model, combined(merge, model.weights("keys_values"), adapted))
            yield model.denoising_loss(Batch.join(next(batches)))

    def _adapted(self, model: TextToImage, batches: Iterator[list[Batch]], first_order: bool) -> Weights:
        """The current weights after `inner_steps` of descent on each concept, (concepts, …) by name."""
        weights = model.weights(self.inner_weights)
        model.unfreeze(list(weights.values()))
        steps = [next(batches) for _ in range(self.inner_steps)]
        return descend(model, weights, steps, lr=self.inner_lr, normalised=self.normalised, first_order=first_order)

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
