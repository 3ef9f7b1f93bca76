"""JT, a baseline of MIMA: joint training on all concepts."""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field

from defenses._ascent import SMALL, AscentDefense
from defenses._unroll import descend
from harness.diffusion import Batch, Targets, TextToImage, WeightSet


class Joint(AscentDefense):
    """JT: ascent through a descent of the whole U-Net on the pooled concepts (a baseline of MIMA, AAAI 2025).

    It is IMMA (ECCV 2024) with the pictures of all concepts in one pool and DreamBooth's update as the inner step. The
    authors released no code for it; choices that the paper leaves open are those of MIMA.
    """

    name = "joint"
    presets = {
        "small": {**SMALL, "inner_lr": 0.03},
        "small_styles": {**SMALL, "inner_lr": 0.03, "lr": 6e-4},
        "small_objects": {**SMALL, "inner_lr": 0.03, "lr": 6e-4},
        "small_personal": {**SMALL, "inner_lr": 0.03, "lr": 1e-3},
    }

    weights: WeightSet = Field("attention", description="the weights that the ascent changes")
    inner_steps: int = Field(1, ge=1, le=5, description="number of unrolled steps of descent")
    inner_lr: float = Field(1e-5, gt=0, description="α, step size of the unrolled steps")
    inner_weights: WeightSet = Field("unet", description="the weights that the unrolled steps change")
    normalised: bool = Field(False, description="whether an unrolled step has the length α · ‖weights‖")
    first_order: bool = Field(False, description="treat the gradients of the descent as constants")

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield the concepts' mean loss on new batches, computed with weights adapted to the pool of all concepts."""
        batches = self.batches(targets)
        while True:
            steps = [Batch.join(next(batches)) for _ in range(self.inner_steps)]
            yield self._loss(model, steps, Batch.join(next(batches)))

    def _loss(self, model: TextToImage, steps: Sequence[Batch], last: Batch) -> torch.Tensor:
        """The loss on `last` after a descent with a step on each of `steps`. No variable holds the adapted weights when
        the gradient is computed."""
        adapted = descend(
            model,
            model.weights(self.inner_weights),
            [[batch] for batch in steps],
            lr=self.inner_lr,
            normalised=self.normalised,
            first_order=self.first_order,
        )
        return model.denoising_loss(last, {name: weight[0] for name, weight in adapted.items()})  # there is one pool
