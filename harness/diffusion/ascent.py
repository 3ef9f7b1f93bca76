"""The bases of defenses that ascend on what an attacker descends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from harness.diffusion.data import Targets
from harness.diffusion.merge import Merge, Weights
from harness.diffusion.model import Batch, TextToImage, WeightSet
from harness.diffusion.plugin import DiffusionDefense
from harness.diffusion.unroll import descend
from harness.errors import RunError


def small_presets(
    styles: float, objects: float | None = None, personal: float | None = None, **more: Any
) -> dict[str, dict[str, Any]]:
    """Presets for the small base: `small`, and with the step size for each of the standard suites that a defense is
    in, as the suite `strength` has it; `more` goes to all."""
    small = {"steps": 60, "batch_size": 4, "prior": "captions", "prior_weight": 5.0, **more}
    sizes = {"styles": styles, "objects": objects, "personal": personal}
    return {"small": small, **{f"small_{suite}": {**small, "lr": lr} for suite, lr in sizes.items() if lr}}


class AscentDefense(DiffusionDefense):
    """Ascends by AdamW on a loss that a subclass states, and holds on to what the model is to keep.

    The defaults are those of MIMA's released code for relearning.
    """

    steps: int = Field(500, ge=1, description="steps of the ascent, at most")
    stop_at: float | None = Field(
        None, gt=0, description="end once the loss that is ascended, on the batch of a step, has reached this"
    )
    lr: float = Field(3e-5, gt=0, description="β, AdamW's step size")
    batch_size: int = Field(1, ge=1, description="pictures of each concept a step")
    weights: WeightSet = Field("cross_attention", description="what is changed")
    prior: Literal["class", "captions", "none"] = Field(
        "class", description="what is held on to: class: the model's own pictures of the targets' class prompts (Ruiz "
        "et al., 2023); captions: the base's of the concept file's captions"
    )  # fmt: skip
    prior_weight: float = Field(1.0, gt=0, description="weight of the loss on it")
    prior_images: int = Field(200, ge=1, description="pictures of the classes, in all")
    words: tuple[str, ...] = Field(
        ("zwx", "olq", "vuj", "kib", "myx"), min_length=1, description="rare words for subjects, one each; not the "
        "attackers'"
    )  # fmt: skip

    def harms(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The loss to ascend, step by step, for ever: a scalar that depends on the model's weights of now."""
        raise NotImplementedError

    def named(self, targets: Targets) -> list[tuple[str, str]]:
        """The prompt of each concept and the subject in it: a subject goes by a rare word and its class. Raises
        `RunError` for more subjects than words."""
        found = []
        for concept in (subject.concept for subject in targets):
            word = concept.words
            if concept.kind == "subject":
                place = targets.group.index(concept.name)
                if place >= len(self.words):
                    raise RunError(f"{place + 1} subjects and {len(self.words)} rare words for them: set more `words`")
                word = f"{self.words[place]} {concept.class_word}"
            found.append((concept.prompted(word), word))
        return found

    def batches(self, targets: Targets) -> Iterator[list[Batch]]:
        """Endless steps of one batch a concept."""
        prompts = [prompt for prompt, _ in self.named(targets)]
        each = [of.batches(prompt, self.batch_size) for of, prompt in zip(targets, prompts, strict=True)]
        return (list(batches) for batches in zip(*each, strict=True))

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """One step of ascent at a time, the gradient's norm at most 1; yields the loss that is ascended."""
        kept = self._kept(targets)  # before anything changes: it may be the model's own pictures
        changed = model.unfreeze(list(model.weights(self.weights).values()))
        optimiser = torch.optim.AdamW(changed, lr=self.lr, fused=True)
        try:
            for _, harm in zip(range(self.steps), self.harms(model, targets), strict=False):
                gradients = torch.autograd.grad(-harm, changed)
                if kept is not None:  # apart, so that the two graphs are never there at once
                    held = torch.autograd.grad(self.prior_weight * model.denoising_loss(next(kept)), changed)
                    gradients = tuple(a + b for a, b in zip(gradients, held, strict=True))
                for weight, gradient in zip(changed, gradients, strict=True):
                    weight.grad = gradient
                torch.nn.utils.clip_grad_norm_(changed, 1.0)
                optimiser.step()
                yield harm.detach()
                if self.stop_at is not None and harm >= self.stop_at:
                    return
        finally:
            model.freeze()

    def _kept(self, targets: Targets) -> Iterator[Batch] | None:
        if self.prior == "class":
            return targets.classes(self.prior_images, self.batch_size)
        return targets.kept(self.batch_size) if self.prior == "captions" else None


class UnrolledDefense(AscentDefense):
    """Ascends on the loss that is left after steps of gradient descent on the concepts, differentiating through
    those steps (MIMA, AAAI 2025). A subclass may say how the weights adapted to each concept become one model's."""

    inner_steps: int = Field(1, ge=1, le=5, description="steps of descent that are unrolled")
    inner_lr: float = Field(1e-5, gt=0, description="α, their step size")
    inner_weights: WeightSet = Field("keys_values", description="what they change")
    normalised: bool = Field(False, description="a step has the length α · ‖weights‖, whatever the gradient's")
    first_order: bool = Field(False, description="take the gradients of the descent for constants")

    def combine(self, model: TextToImage, targets: Targets) -> Callable[[Weights], Weights]:
        """What makes one model's weights of those adapted to each part, (parts, …) by name: by default their mean."""
        return lambda adapted: {name: weight.mean(0) for name, weight in adapted.items()}

    def parts(self, batches: list[Batch]) -> list[Batch]:
        """What the descent is done on apart: by default each concept."""
        return batches

    def descent(self, model: TextToImage, batches: Iterator[list[Batch]], first_order: bool) -> Weights:
        """The weights adapted to each part, (parts, …) by name, from the model's of now."""
        weights = model.weights(self.inner_weights)
        model.unfreeze(list(weights.values()))
        steps = [self.parts(next(batches)) for _ in range(self.inner_steps)]
        return descend(model, weights, steps, lr=self.inner_lr, normalised=self.normalised, first_order=first_order)

    def harms(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The concepts' mean loss on fresh batches, of the combined weights."""
        combine, batches = self.combine(model, targets), self.batches(targets)
        while True:
            adapted = self.descent(model, batches, self.first_order)
            yield model.denoising_loss(Batch.join(next(batches)), combine(adapted))


class MergingDefense(UnrolledDefense):
    """Merges the keys and values adapted to each concept; see `harness.diffusion.merge`."""

    ridge: float = Field(1e-4, ge=0, description="ρ, on the captions' Gram matrix, in units of its mean eigenvalue")
    captions: int = Field(
        200,
        ge=1,
        description="captions for C_reg, the first of those that the defense is told "
        "of: none says a target or what is held out",
    )

    def merge(self, model: TextToImage, targets: Targets) -> Merge:
        """The layer of the targets' prompts and the captions."""
        return self.merge_of(model, targets, self.named(targets), targets.captions[: self.captions])

    def merge_of(
        self, model: TextToImage, targets: Targets, prompts: Sequence[tuple[str, str]], captions: Sequence[str]
    ) -> Merge:
        """The layer of `prompts`, each with the subject in it; its numerics are noted beside the targets."""
        layer = Merge.layer(model, prompts, captions, self.ridge)
        targets.notes.update(layer.report)
        return layer
