"""Contraction and curvature along an attacker's path, for any model of torch (CLAMP, CVPR 2026)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional

from defenses._bilevel import Loss, Weights, add, descent, norm, unit, unroll

Step = Callable[[Weights], Weights]
"""An attacker's step T: its weights after the step as a function of those before."""


def response(
    step: Step, weights: Weights, after: Weights, probe: Weights, *, epsilon: float, iterations: int = 0
) -> Weights:
    """(T(ω + εv) − T(ω))/ε, up to O(ε) the product of T's Jacobian with v, the unit vector along `probe`.

    Its norm is CLAMP's estimate ĉ of how much T contracts: no more than the spectral norm of the Jacobian, and equal to
    it after enough iterations of the power method if the Jacobian is symmetric, as that of gradient descent.

    step: T, differentiable. weights: ω. after: T(ω). probe: v before the iterations, of any norm but 0. epsilon: ε.
    iterations: number of iterations; CLAMP has none. The result is differentiable with respect to ω; v is a constant.
    """
    moved = probe
    for _ in range(iterations + 1):
        ahead = add(weights, unit(tuple(part.detach() for part in moved)), epsilon)
        moved = tuple(part / epsilon for part in add(step(ahead), after, -1.0))
    return moved


def curvature(loss: Loss, weights: Weights, direction: Weights, *, delta: float) -> torch.Tensor:
    """κ̂ = (L(ω + δu) − 2 L(ω) + L(ω − δu))/δ², the curvature of `loss` along u.

    weights: ω. direction: u, a unit vector. delta: δ. Returns a scalar, differentiable with respect to ω and u.
    """
    ahead, behind = (loss(add(weights, direction, sign * delta)) for sign in (1.0, -1.0))
    return (ahead - 2 * loss(weights) + behind) / delta**2


@dataclass(frozen=True)
class Objective:
    """CLAMP's objective without the loss of what is kept: what an attacker with gradient descent can reach.

    The attacker takes K steps T(ω) = ω − η ∇L(ω) from θ to ω_K; g is the gradient there, and u_t are the moves.

    - contraction: ĉ, the mean of ‖T(ω_K + εv) − T(ω_K)‖/ε over unit vectors v; L_ctr = λ_c softplus(ĉ − ĉ_max);
    - tail: if T contracts by ĉ < 1, further steps move no further than B = ‖u_K‖/(1 − ĉ) and lower the loss by no
      more than ΔL = ‖g‖ B + ½ L̃ B²; L_long = λ_l max(0, L(θ) − L(ω_K) + ΔL − m). L̃ is the largest of
      ‖∇L(ω_K + εv) − ∇L(ω_K)‖/ε. In B, ĉ is at most .99;
    - curvature: κ̂_t at ω_t along u_t, for every step; L_curv = λ_κ Σ_t softplus(κ_min − κ̂_t);
    - start: L_inv = −λ_i L(θ), without which L_long makes the attacker's start better.

    lr: η. epsilon: ε. delta: δ. margin: m. contraction: ĉ_max. curvature: κ_min. tail_weight: λ_l. contraction_weight:
    λ_c. curvature_weight: λ_κ. start_weight: λ_i.
    """

    lr: float
    epsilon: float
    delta: float
    margin: float
    contraction: float
    curvature: float
    tail_weight: float
    contraction_weight: float
    curvature_weight: float
    start_weight: float

    @classmethod
    def of(cls, plugin: Any) -> Objective:
        """The objective with the settings of a plugin, whose fields have these names; η is its `inner_lr`."""
        names = (field.name for field in fields(cls) if field.name != "lr")
        return cls(plugin.inner_lr, **{name: getattr(plugin, name) for name in names})

    def __call__(self, theta: Weights, losses: Sequence[Loss], probes: Sequence[Weights]) -> torch.Tensor:
        """L_long + L_ctr + L_curv + L_inv, a scalar to minimise, differentiable with respect to θ.

        theta: θ. losses: L on the batch of each of the K steps, and on a batch for L(θ), L(ω_K), T, g and L̃. probes:
        the vectors v, of any norm.
        """
        *steps, last = losses
        path = unroll(theta, steps, self.lr)
        end = path[-1]
        end_step = descent(last, end, self.lr)
        responses = [
            response(lambda weights: descent(last, weights, self.lr), end, end_step, probe, epsilon=self.epsilon)
            for probe in probes
        ]
        contraction = torch.stack([norm(moved) for moved in responses]).mean()
        smoothness = torch.stack(
            [norm(add(unit(probe), moved, -1.0)) / self.lr for probe, moved in zip(probes, responses, strict=True)]
        ).max()
        moves = [add(after, before, -1.0) for before, after in pairwise(path)]
        reach = norm(moves[-1]) / (1 - contraction.clamp(max=0.99))
        slope = norm(add(end, end_step, -1.0)) / self.lr
        decrease = last(theta) - last(end) + slope * reach + smoothness * reach**2 / 2
        curvatures = torch.stack(
            [
                curvature(loss, weights, unit(move), delta=self.delta)
                for loss, weights, move in zip(steps, path, moves, strict=False)
            ]
        )
        return (
            self.tail_weight * (decrease - self.margin).clamp(min=0)
            + self.contraction_weight * functional.softplus(contraction - self.contraction)
            + self.curvature_weight * functional.softplus(self.curvature - curvatures).sum()
            - self.start_weight * last(theta)
        )
