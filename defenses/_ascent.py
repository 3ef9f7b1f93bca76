"""Gradient ascent on a harmful loss with prior preservation: the common part of ascent, JT, CP, MIMA and IMMA."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field

from harness import RunError
from harness.diffusion import Batch, DiffusionDefense, Targets, TextToImage, WeightSet


class AscentDefense(DiffusionDefense):
    """Ascent with AdamW on a loss that a subclass defines, combined with descent on a loss of pictures to retain.

    The defaults are those of MIMA's released code for relearning.
    """

    presets = {"small": {"steps": 60, "batch_size": 4, "prior": "captions", "prior_weight": 5.0}}

    steps: int = Field(500, ge=1, description="largest number of steps of the ascent")
    stop_at: float | None = Field(
        None, gt=0, description="stop as soon as the ascended loss, on the batch of one step, reaches this value"
    )
    lr: float = Field(3e-5, gt=0, description="β, AdamW's step size")
    batch_size: int = Field(1, ge=1, description="pictures of each concept in a step")
    weights: WeightSet = Field("cross_attention", description="the weights that the ascent changes")
    prior: Literal["class", "captions", "none"] = Field(
        "class",
        description="pictures to retain: class: the undefended model's pictures of the targets' class prompts (Ruiz et "
        "al., 2023); captions: the base model's pictures of the concept file's captions; none",
    )
    prior_weight: float = Field(1.0, gt=0, description="weight of the loss on the pictures to retain")
    prior_images: int = Field(200, ge=1, description="number of pictures of all class prompts together")
    words: tuple[str, ...] = Field(
        ("zwx", "olq", "vuj", "kib", "myx"),
        min_length=1,
        description="rare words for subjects, one for each; they differ from the attackers' words",
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """The class prompts or the captions, for a prior of their pictures."""
        return {"class": ("class_prompt",), "captions": ("captions",), "none": ()}[self.prior]

    def class_images(self) -> int:
        """Number of class pictures to retain: no more than all steps can use."""
        return min(self.prior_images, self.steps * self.batch_size) if self.prior == "class" else 0

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield the loss to ascend once per step, without end: a scalar that depends on the current weights of `model`.

        targets: the concepts that the model must not learn.
        """
        raise NotImplementedError

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Ascend step by step, with the gradient's norm clipped to 1; yields the ascended loss after every step."""
        retained = self._retained(targets)
        weights = model.unfreeze(list(model.weights(self.weights).values()))
        optimiser = torch.optim.AdamW(weights, lr=self.lr, fused=True)
        try:
            for _, loss in zip(range(self.steps), self.harmful_losses(model, targets), strict=False):
                gradients = torch.autograd.grad(-loss, weights)
                if retained is not None:  # a separate backward pass, so that only one graph is in memory
                    kept = torch.autograd.grad(self.prior_weight * model.denoising_loss(next(retained)), weights)
                    gradients = tuple(a + b for a, b in zip(gradients, kept, strict=True))
                for weight, gradient in zip(weights, gradients, strict=True):
                    # torch's fused AdamW on a CPU pairs elements by their place in memory
                    weight.grad = torch.empty_like(weight).copy_(gradient)
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimiser.step()
                yield loss.detach()
                if self.stop_at is not None and loss >= self.stop_at:
                    return
        finally:
            model.freeze()

    def prompts(self, targets: Targets) -> list[tuple[str, str]]:
        """The prompt of each concept in `targets`, and the concept's words in it. The words of a subject are a rare
        word and its class.

        Raises `RunError` if there are more subjects than rare words.
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
        """Yield for each step, without end, one batch of `batch_size` pictures for each concept in `targets`."""
        pairs = zip(targets, self.prompts(targets), strict=True)
        each = [subject.batches(prompt, self.batch_size) for subject, (prompt, _) in pairs]
        return (list(batches) for batches in zip(*each, strict=True))

    def _retained(self, targets: Targets) -> Iterator[Batch] | None:
        if self.prior == "class":
            return targets.classes(self.prior_images, self.batch_size)
        return targets.kept(self.batch_size) if self.prior == "captions" else None


SMALL: dict[str, Any] = dict(AscentDefense.presets["small"])
"""The preset of all these defenses for the small base. The presets named after a suite add the step size that the suite
`strength` chose for it."""
