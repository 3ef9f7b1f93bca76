"""CLAMP on deep networks: limits to what an attacker reaches, by the contraction and the curvature of its path."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import nn

from defenses._contraction import Objective
from defenses._simulated_deep import loss_of, new_head, of_tail
from harness.deep import DeepDefense, DeepTargets, Released


class ClampDeep(DeepDefense):
    """Benign loss plus limits to what an attacker with gradient descent can reach (CLAMP, Sarker et al., CVPR 2026).

    An attacker with a new head of zeros takes K steps on the harmful task from the released tail, and the defense
    descends through them on four terms (see `defenses._contraction`): a bound of how far the harmful loss falls, now
    and in all further steps; the contraction of a step at the end of the path; the curvature along the path; and minus
    the loss at its start. The paper's projection of the harmful direction is not here, and no code was found: the
    values of K, η, m, ε, δ and the weights are our choice.
    """

    name = "clamp_deep"

    steps: int = Field(60, ge=1, description="steps of the defense")
    lr: float = Field(1e-4, gt=0, description="step size of Adam (our choice)")
    batch_size: int = Field(64, ge=1, description="rows of a task in a batch")
    harm_weight: float = Field(1.0, gt=0, description="weight of the four terms beside the benign loss (our choice)")
    inner_steps: int = Field(3, ge=1, le=20, description="K, number of the attacker's steps (our choice)")
    inner_lr: float = Field(0.03, gt=0, description="η, the attacker's step size (our choice)")
    probes: int = Field(1, ge=1, description="number of random unit vectors v in a step (our choice)")
    epsilon: float = Field(0.1, gt=0, description="ε, length of a move along v (our choice)")
    delta: float = Field(0.1, gt=0, description="δ, length of a move along the path, for its curvature (our choice)")
    margin: float = Field(0.0, ge=0, description="m, decrease of the loss that is allowed (our choice)")
    contraction: float = Field(0.9, gt=0, lt=1, description="ĉ_max, contraction that is allowed (our choice)")
    curvature: float = Field(1.0, ge=0, description="κ_min, curvature that is wanted (our choice)")
    tail_weight: float = Field(1.0, ge=0, description="λ_l, weight of the loss's decrease (our choice)")
    contraction_weight: float = Field(1.0, ge=0, description="λ_c, weight of the contraction (our choice)")
    curvature_weight: float = Field(0.1, ge=0, description="λ_κ, weight of the curvature (our choice)")
    start_weight: float = Field(0.0, ge=0, description="λ_i, weight of the loss at the start: a head of zeros has the "
                                "same loss on all features (our choice)")  # fmt: skip

    def immunize(self, model: Released, targets: DeepTargets) -> Iterator[torch.Tensor]:
        """Train `model`; yields the objective before each step. Raises `RunError` if a task has fewer rows than a
        batch."""
        draw = targets.generator()
        benign, harmful = (task.batches(self.batch_size, draw) for task in (targets.benign, targets.harmful))
        classes = int(targets.harmful.y.max()) + 1
        objective = Objective.of(self)
        optimiser = torch.optim.Adam([*model.tail.parameters(), *model.head.parameters()], lr=self.lr)
        for _ in range(self.steps):
            head = tuple(part.requires_grad_() for part in new_head(model, classes, None))
            start = (*of_tail(model), *head)
            losses = [loss_of(model, next(harmful), twice=True) for _ in range(self.inner_steps + 1)]
            probes = [tuple(torch.randn(weight.shape, generator=draw) for weight in start) for _ in range(self.probes)]
            rows = next(benign)
            loss = nn.functional.cross_entropy(model(rows.x), rows.y)
            loss = loss + self.harm_weight * objective(start, losses, probes)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield loss.detach()
        optimiser.zero_grad()
