"""CLAMP: limits to what an attacker reaches, by the contraction and the curvature of its path."""

from collections.abc import Iterator

import torch
from pydantic import Field

from defenses import _bilevel as bilevel
from defenses._ascent import SMALL, AscentDefense
from defenses._contraction import Objective
from defenses._simulated import denoising
from harness.diffusion import Batch, Targets, TextToImage, WeightSet


class Clamp(AscentDefense):
    """Limits what an attacker with gradient descent can reach (CLAMP, Sarker et al., CVPR 2026).

    An attacker takes K steps on the targets, and the defense descends through them on four terms: a bound of how far
    the targets' loss falls, now and in all further steps; the contraction of a step at the end of the path; the
    curvature along the path, which should be large; and minus the loss at its start. `defenses._contraction` has the
    equations. No code was found, and the paper's values of K, η, m, ε, δ, of its weights and its estimate of the
    gradient's Lipschitz constant are not known to us: they are our choice.
    """

    name = "clamp"
    presets = {
        "small": {**SMALL, "inner_steps": 2, "inner_lr": 0.03, "epsilon": 0.1, "delta": 0.1},
        "small_styles": {**SMALL, "inner_steps": 2, "inner_lr": 0.03, "epsilon": 0.1, "delta": 0.1, "lr": 1e-3},
    }

    lr: float = Field(1e-5, gt=0, description="AdamW's step size")
    weights: WeightSet = Field("cross_attention", description="the weights that the defense and the attacker change")
    inner_steps: int = Field(3, ge=1, le=20, description="K, number of the attacker's steps (our choice)")
    inner_lr: float = Field(1e-4, gt=0, description="η, the attacker's step size (our choice)")
    probes: int = Field(1, ge=1, description="number of random unit vectors v in a step (our choice)")
    epsilon: float = Field(0.01, gt=0, description="ε, length of a move along v (our choice)")
    delta: float = Field(0.01, gt=0, description="δ, length of a move along the path, for its curvature (our choice)")
    margin: float = Field(0.0, ge=0, description="m, decrease of the loss that is allowed (our choice)")
    contraction: float = Field(0.9, gt=0, lt=1, description="ĉ_max, contraction that is allowed (our choice)")
    curvature: float = Field(1.0, ge=0, description="κ_min, curvature that is wanted (our choice)")
    tail_weight: float = Field(1.0, ge=0, description="λ_l, weight of the loss's decrease (our choice)")
    contraction_weight: float = Field(1.0, ge=0, description="λ_c, weight of the contraction (our choice)")
    curvature_weight: float = Field(0.1, ge=0, description="λ_κ, weight of the curvature (our choice)")
    start_weight: float = Field(1.0, ge=0, description="λ_i, weight of the loss at the start (our choice)")

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield minus the four terms on new batches, with the gradient through the attacker's steps."""
        named = model.weights(self.weights)
        names, theta = list(named), tuple(named.values())
        batches, draw = map(Batch.join, self.batches(targets)), torch.Generator().manual_seed(targets.seed)
        objective = Objective.of(self)
        while True:
            losses = [denoising(model, names, next(batches), twice=True) for _ in range(self.inner_steps + 1)]
            probes = [
                tuple(torch.randn(weight.shape, generator=draw).to(weight) for weight in theta)
                for _ in range(self.probes)
            ]
            value = -objective(theta, losses, probes)
            gradient = torch.autograd.grad(value, theta)
            yield bilevel.with_gradient(value, theta, gradient)
            del losses, probes, value, gradient
