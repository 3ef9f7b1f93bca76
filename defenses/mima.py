"""MIMA, which immunizes against several concepts by differentiating through the merging of models."""

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

    A step: (1) each concept adapts the weights by descent of its own (`defenses._unroll`); (2) the adapted keys and
    values are merged by a layer that preserves the meaning of each concept's words (`defenses._merge`), all other
    weights by their mean; (3) the original weights ascend on the merged model's loss on the concepts, through (1, 2).

    mode paper: the merge's W^p are the base model's weights; paper-current: W^p are the current weights, as in the
    released code. released: what that code does: it alternates a descent that is merged into the weights themselves
    with a plain step of ascent, differentiates through neither, takes the rows of C from the class prompts (if each
    concept has its own, else from the targets') and draws new captions at every step. Its error of training on the
    last concept alone is not reproduced.
    """

    name = "mima"
    presets = {
        "small": {**SMALL, "inner_lr": 1.0},
        "small_styles": {**SMALL, "inner_lr": 1.0, "lr": 1e-3},
        "small_objects": {**SMALL, "inner_lr": 1.0, "lr": 6e-4},
        "small_personal": {**SMALL, "inner_lr": 1.0, "lr": 1e-3},
    }

    mode: Literal["paper", "paper-current", "released"] = Field("paper", description="see above")
    inner_steps: int = Field(1, ge=1, le=5, description="steps of descent that are unrolled")
    inner_lr: float = Field(1e-5, gt=0, description="α, their step size")
    inner_weights: WeightSet = Field("keys_values", description="the weights that the unrolled steps change")
    normalised: bool = Field(False, description="an unrolled step has the length α · ‖weights‖ for any gradient")
    first_order: bool = Field(False, description="treat the gradients of the descent as constants")
    ridge: float = Field(1e-4, ge=0, description="ρ, on the captions' Gram matrix, in units of its mean eigenvalue")
    captions: int = Field(
        200, ge=1, description="captions for C_reg: the first of the concept file's; released: as many, drawn"
    )

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The concepts' mean loss on fresh batches, of the merged weights."""
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
        """What the released code ascends: the loss of the model after the merged weights have replaced its own."""
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
        """The merge layer of `prompts`, each with its subject; its numerics are noted in the targets' notes."""
        merge = Merge.layer(model, prompts, captions, self.ridge)
        targets.notes.update(merge.report)
        return merge


def combined(merge: Merge, pretrained: Weights, adapted: Weights) -> Weights:
    """One model's weights of those adapted to each concept, (concepts, …) by name: keys and values merged, all other
    weights averaged. pretrained: W^p by name, all keys and values."""
    means = {name: weight.mean(0) for name, weight in adapted.items() if name not in pretrained}
    return means | merge.merged(pretrained, adapted)
