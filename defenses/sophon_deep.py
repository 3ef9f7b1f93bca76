"""SOPHON on deep networks: descent on a loss that fades, after every step of a simulated attacker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from defenses import _bilevel as bilevel
from defenses._simulated_deep import divergence_from_uniform, inverse_cross_entropy, loss_of, new_head, of_tail
from harness.deep import DeepDefense, DeepTargets, Released


class SophonDeep(DeepDefense):
    """First-order descent on a loss after each step of a simulated attacker (SOPHON, S&P 2024, Algorithm 1).

    A step has two parts. Fine-tuning suppression: an attacker with a new random head takes K steps on batches of the
    harmful task, from the released tail; a loss of the harmful task is evaluated at its weights after each of them,
    and the tail takes a step of Adam along the mean of the gradients there, as if the attacker's moves were constants.
    Training reinforcement: tail and head take a step of Adam on a batch of the benign task. The loss has its minimum
    where the attacker's network knows nothing, and its gradient fades there. BatchNorm layers keep and use their
    running statistics; the released code trains with those of each batch and puts them back afterwards.
    """

    name = "sophon_deep"
    presets = {
        "released": {"steps": 800, "batch_size": 150, "inner_steps": 50, "inner_lr": 1e-4, "inner_optimiser": "gd"}
    }

    steps: int = Field(60, ge=1, description="steps of the defense")
    lr: float = Field(3e-4, gt=0, description="step size of Adam on the harmful task's loss")
    retain_lr: float = Field(5e-4, gt=0, description="step size of Adam on the benign task's loss")
    clip: float = Field(0.5, gt=0, description="largest norm of the gradient of the harmful task's loss")
    batch_size: int = Field(64, ge=1, description="rows of a task in a batch")
    loss: Literal["inverse", "uniform"] = Field(
        "uniform",
        description="the harmful task's loss: inverse: −log(1 − p) of the right class, mean over rows; uniform: "
        "Kullback–Leibler divergence of equal probabilities from the predicted ones",
    )
    inner_steps: int = Field(8, ge=1, description="K, number of the attacker's steps")
    inner_lr: float = Field(1e-3, gt=0, description="the attacker's step size")
    inner_optimiser: bilevel.Optimiser = Field("adam", description="the attacker's optimiser; gd: gradient descent")

    def immunize(self, model: Released, targets: DeepTargets) -> Iterator[torch.Tensor]:
        """Train `model`; yields the harmful task's mean loss along the attacker's path before each step. Raises
        `RunError` if a task has fewer rows than a batch."""
        draw = targets.generator()
        benign, harmful = (task.batches(self.batch_size, draw) for task in (targets.benign, targets.harmful))
        classes = int(targets.harmful.y.max()) + 1
        measure = inverse_cross_entropy if self.loss == "inverse" else divergence_from_uniform
        tail = of_tail(model)
        suppress = torch.optim.Adam(tail, lr=self.lr)
        reinforce = torch.optim.Adam([*tail, *model.head.parameters()], lr=self.retain_lr)
        for _ in range(self.steps):
            start = (*tail, *new_head(model, classes, draw))
            moves = (loss_of(model, rows) for rows in islice(harmful, self.inner_steps))
            path = bilevel.attack(start, moves, self.inner_lr, self.inner_optimiser)
            evaluations = (loss_of(model, rows, measure) for rows in harmful)
            shares = [1 / self.inner_steps] * self.inner_steps
            value, gradients = bilevel.along_path(path, islice(evaluations, self.inner_steps), shares)
            _step(suppress, tail, gradients[: len(tail)], self.clip)
            rows = next(benign)
            weights = (*tail, *model.head.parameters())
            kept = nn.functional.cross_entropy(model(rows.x), rows.y)
            _step(reinforce, weights, torch.autograd.grad(kept, weights), math.inf)
            yield value


def _step(optimiser: torch.optim.Optimizer, weights: bilevel.Weights, gradients: bilevel.Weights, clip: float) -> None:
    """One step on `weights` with `gradients`, whose norm is cut to `clip`."""
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    torch.nn.utils.clip_grad_norm_(weights, clip)
    optimiser.step()
    optimiser.zero_grad()
