"""Gradient ascent on a harmful loss while benign pictures are retained: what ascent, JT, CP, MIMA and IMMA share."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field

from harness import RunError
from harness.diffusion import Batch, DiffusionDefense, Targets, TextToImage, WeightSet


class AscentDefense(DiffusionDefense):
    """Ascends by AdamW on a loss that a subclass states, and descends on a loss of what the model has to retain.

    The defaults are those of MIMA's released code for relearning.
    """

    presets = {"small": {"steps": 60, "batch_size": 4, "prior": "captions", "prior_weight": 5.0}}

    steps: int = Field(500, ge=1, description="largest number of steps of the ascent")
    stop_at: float | None = Field(
        None, gt=0, description="end once the ascended loss, on the batch of a step, has reached this"
    )
    lr: float = Field(3e-5, gt=0, description="β, AdamW's step size")
    batch_size: int = Field(1, ge=1, description="pictures of each concept a step")
    weights: WeightSet = Field("cross_attention", description="the weights that the ascent changes")
    prior: Literal["class", "captions", "none"] = Field(
        "class",
        description="what is retained: class: the model's own pictures of the targets' class prompts (Ruiz et al., "
        "2023); captions: the base model's pictures of the concept file's captions; none",
    )
    prior_weight: float = Field(1.0, gt=0, description="weight of the loss on what is retained")
    prior_images: int = Field(200, ge=1, description="pictures of all class prompts together")
    words: tuple[str, ...] = Field(
        ("zwx", "olq", "vuj", "kib", "myx"),
        min_length=1,
        description="rare words for particular things, one each; other words than the attackers'",
    )

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The loss to ascend, once a step, for ever: a scalar that depends on the model's current weights."""
        raise NotImplementedError

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """One step of ascent at a time, with a gradient norm of at most 1; yields the ascended loss."""
        retained = self._retained(targets)  # before any weight changes: these may be the model's own pictures
        weights = model.unfreeze(list(model.weights(self.weights).values()))
        optimiser = torch.optim.AdamW(weights, lr=self.lr, fused=True)
        try:
            for _, loss in zip(range(self.steps), self.harmful_losses(model, targets), strict=False):
                gradients = torch.autograd.grad(-loss, weights)
                if retained is not None:  # a backward pass of its own, so that only one graph is in memory
                    kept = torch.autograd.grad(self.prior_weight * model.denoising_loss(next(retained)), weights)
                    gradients = tuple(a + b for a, b in zip(gradients, kept, strict=True))
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimiser.step()
                yield loss.detach()
                if self.stop_at is not None and loss >= self.stop_at:
                    return
        finally:
            model.freeze()

    def prompts(self, targets: Targets) -> list[tuple[str, str]]:
        """The prompt of each concept and the subject in it. A particular thing is called by a rare word and its class.

        Raises `RunError` if there are more particular things than words.
        """
        pairs = []
        for concept in (subject.concept for subject in targets):
            word = concept.words
            if concept.kind == "subject":
                place = targets.group.index(concept.name)
                if place >= len(self.words):
                    raise RunError(f"{place + 1} subjects and {len(self.words)} rare words for them: set more `words`")
                word = f"{self.words[place]} {concept.class_word}"
            pairs.append((concept.prompted(word), word))
        return pairs

    def batches(self, targets: Targets) -> Iterator[list[Batch]]:
        """Endless steps of one batch of `batch_size` pictures for each concept."""
        pairs = zip(targets, self.prompts(targets), strict=True)
        each = [subject.batches(prompt, self.batch_size) for subject, (prompt, _) in pairs]
        return (list(batches) for batches in zip(*each, strict=True))

    def _retained(self, targets: Targets) -> Iterator[Batch] | None:
        if self.prior == "class":
            return targets.classes(self.prior_images, self.batch_size)
        return targets.kept(self.batch_size) if self.prior == "captions" else None


SMALL: dict[str, Any] = dict(AscentDefense.presets["small"])
"""The preset that all of these defenses have for the small base; the presets named after a suite add the step size
that the suite `strength` gives for it."""
