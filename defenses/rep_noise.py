"""RepNoise: ascent on the targets' loss, and noise in place of the activations that they cause."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field

from defenses import _bilevel as bilevel
from defenses._ascent import SMALL, AscentDefense
from defenses._noising import Noise, distance_from_noise, recorded
from harness.diffusion import Batch, Targets, TextToImage, WeightSet, cross_attention


class RepNoise(AscentDefense):
    """Ascent that turns the targets' activations into noise (RepNoise, NeurIPS 2024; GIFT, arXiv 2507.13598).

    RepNoise is for language models, and GIFT is its form for diffusion. A step ascends on α log L − β Σ_l MMD_l/n. L is
    the denoising loss of the targets, and MMD_l the squared maximum mean discrepancy between noise and the outputs of
    layer l on noised pictures of the targets. The n layers are the cross-attentions and the middle block.

    mode: paper: as above. released: log (L + 1) in place of log L, as the code of RepNoise computes it where there are
    no read-outs of intermediate layers, which a U-Net does not have.
    """

    name = "rep_noise"
    presets = {
        "small": {**SMALL, "noise": "channels", "noise_weight": 1.0},
        "small_styles": {**SMALL, "noise": "channels", "noise_weight": 1.0, "lr": 1e-4},
    }

    mode: Literal["paper", "released"] = Field("paper", description="variant of the method (see above)")
    lr: float = Field(1e-4, gt=0, description="AdamW's step size")
    weights: WeightSet = Field("unet", description="the weights that the ascent changes")
    harm_weight: float = Field(1.0, ge=0, description="α, weight of the logarithm of the targets' loss")
    noise_weight: float = Field(0.001, ge=0, description="β, weight of the distance from noise")
    noise: Noise = Field(
        "standard",
        description="standard: of mean 0 and deviation 1 (RepNoise); channels: with each channel's mean and deviation "
        "(GIFT: noise of the activations' own distribution)",
    )
    samples: int = Field(32, ge=2, description="rows of activations of each layer in a step: places in pictures")

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield α log L − β Σ_l MMD_l/n on a new batch."""
        theta = tuple(model.weights(self.weights).values())
        layers: list[torch.nn.Module] = [layer for _, layer in cross_attention(model.unet)]
        if model.unet.mid_block is not None:
            layers.append(model.unet.mid_block)
        draw = torch.Generator().manual_seed(targets.seed)
        for batches in self.batches(targets):
            with recorded(layers) as outputs:
                loss = model.denoising_loss(Batch.join(batches))
            distances = [distance_from_noise(output, self.noise, draw, self.samples) for output in outputs]
            harm = torch.log(loss + 1 if self.mode == "released" else loss)
            objective = self.harm_weight * harm - self.noise_weight * torch.stack(distances).mean()
            yield bilevel.with_gradient(objective, theta, torch.autograd.grad(objective, theta))
            del outputs, distances, harm, objective, loss
