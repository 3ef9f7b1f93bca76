"""RepNoise on deep networks: ascent on the harmful task's loss, and noise in place of the activations it causes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from defenses._noising import Noise, distance_from_noise, recorded
from defenses._tail import TailDescent, Term, adapted_head
from harness.deep import Network, Released, Rows


class RepNoiseDeep(TailDescent):
    """Benign loss plus β Σ_l MMD_l/n − α log L (RepNoise, NeurIPS 2024, Eq. 5, which is of language models).

    L is the harmful task's cross-entropy of a head of zeros after some steps on the batch, which RepNoise does not
    need: its network has the head of the harmful task. MMD_l is the squared maximum mean discrepancy between Gaussian
    noise and the outputs of layer l on the harmful batch. The n layers are all linear layers and convolutions of the
    tail. Preset `released` has RepNoise's weights.
    """

    name = "rep_noise_deep"
    presets = {"released": {"weighting": "absolute", "noise_weight": 1e-3, "noise": "standard"}}

    harm_weight: float = Field(1.0, ge=0, description="α, weight of the logarithm of the harmful loss")
    noise_weight: float = Field(1.0, ge=0, description="β, weight of the distance from noise")
    noise: Noise = Field(
        "channels",
        description="standard: of mean 0 and deviation 1 (RepNoise); channels: with each channel's mean and deviation "
        "(GIFT, arXiv 2507.13598: noise of the activations' own distribution)",
    )
    samples: int = Field(32, ge=2, description="rows of activations of each layer in a step: places in pictures")
    inner_steps: int = Field(5, ge=0, description="number of unrolled steps of the head, of length 1/L")

    def regularisers(
        self, model: Network, benign: torch.Tensor, harmful: torch.Tensor, y: torch.Tensor
    ) -> Sequence[Term]:
        """Minus the logarithm of the harmful loss."""
        outputs = harmful @ adapted_head(harmful, y, self.inner_steps)
        return (("harmful loss", self.harm_weight, -nn.functional.cross_entropy(outputs, y).log()),)

    def objective(
        self, model: Released, benign: Rows, harmful: Rows, draw: torch.Generator
    ) -> tuple[torch.Tensor, list[Term]]:
        """The benign loss, and the regularisers with the distance from noise."""
        layers = [layer for layer in model.tail.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        with recorded(layers) as activations:
            loss, terms = super().objective(model, benign, harmful, draw)
        prevented = activations[len(activations) // 2 :]  # the harmful batch comes second
        if self.noise_weight and prevented:
            distances = [distance_from_noise(part, self.noise, draw, self.samples) for part in prevented]
            terms.append(("distance from noise", self.noise_weight, torch.stack(distances).mean()))
        return loss, terms
