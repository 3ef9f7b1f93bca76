"""Trains the tail of a deep network, and its head, on the benign task's loss with regularisers of the features.

Source: "Model Immunization from a Condition Number Perspective" (ICML 2025, Eq. 17 and Section 5.3) and its released
code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from harness.deep import DeepDefense, DeepTargets, Network, Released, Rows
from harness.probe import gram


class TailDescent(DeepDefense):
    """Descent on the benign loss plus weighted regularisers that a subclass defines.

    The optimiser is SGD with Nesterov's momentum 0.9, as in the released code, on a batch of each task in every step.
    """

    steps: int = Field(60, ge=1, description="optimisation steps")
    lr: float = Field(1e-3, gt=0, description="step size")
    batch_size: int = Field(64, ge=2, description="rows of each task in a batch")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing of the benign task's cross-entropy")
    statistics: Literal["frozen", "released"] = Field(
        "frozen",
        description="BatchNorm layers: frozen: they use and keep their running statistics; released: in training mode, "
        "as in the released code, with the statistics of each batch in turn",
    )
    weighting: Literal["balance", "absolute"] = Field(
        "balance",
        description="weights of the regularisers: balance: so that the norm of each one's gradient with respect to the "
        "tail is the weight times that of the benign loss, before the first step; absolute: as they are",
    )

    def regularisers(
        self, model: Network, benign: torch.Tensor, harmful: torch.Tensor, y: torch.Tensor
    ) -> Sequence[tuple[str, float, torch.Tensor]]:
        """Name, weight and value (a differentiable scalar) of each regulariser.

        model: the network. benign, harmful: features (rows, dim) of a batch of each task. y: classes (rows) of the
        harmful batch.
        """
        raise NotImplementedError

    def immunize(self, model: Released, targets: DeepTargets) -> Iterator[torch.Tensor]:
        """Train `model`; yields the objective before each step. Raises `RunError` if a task has fewer rows than a
        batch."""
        draw = targets.generator()
        groups: list[dict[str, Any]] = [
            {"params": model.tail.parameters()},
            {"params": model.head.parameters(), "weight_decay": 2e-5},
        ]
        optimiser = torch.optim.SGD(groups, lr=self.lr, momentum=0.9, nesterov=True)
        benign, harmful = (task.batches(self.batch_size, draw) for task in (targets.benign, targets.harmful))
        scales: dict[str, float] = {}
        model.train(self.statistics == "released")
        try:
            for _ in range(self.steps):
                loss = self._objective(model, next(benign), next(harmful), scales)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                yield loss.detach()
        finally:
            optimiser.zero_grad()
            model.eval()
        targets.notes.update({f"weight of {name}": scale for name, scale in scales.items()})

    def _objective(self, model: Released, benign: Rows, harmful: Rows, scales: dict[str, float]) -> torch.Tensor:
        """The objective on a batch of each task. scales: factors of the regularisers by name, found at the first
        call."""
        kept, prevented = (model.features(rows.x) for rows in (benign, harmful))
        loss = nn.functional.cross_entropy(model.head(kept), benign.y, label_smoothing=self.smoothing)
        terms = [term for term in self.regularisers(model, kept, prevented, harmful.y) if term[1] > 0]
        for name, weight, value in terms:
            if name not in scales:
                scales[name] = weight * (_balance(model, loss, value) if self.weighting == "balance" else 1.0)
        return loss + sum((scales[name] * value for name, _, value in terms), torch.zeros_like(loss))


def _balance(model: Network, loss: torch.Tensor, value: torch.Tensor) -> float:
    """The norm of the loss's gradient with respect to the tail over that of a regulariser's."""
    weights = list(model.tail.parameters())
    norms = []
    for scalar in (loss, value):
        gradients = torch.autograd.grad(scalar, weights, retain_graph=True, allow_unused=True)
        norms.append(math.sqrt(sum(float(part.double().square().sum()) for part in gradients if part is not None)))
    return norms[0] / norms[1] if norms[1] > 0 else 0.0


def gram64(features: torch.Tensor) -> torch.Tensor:
    """The Gram matrix (rows, rows) of `features` (rows, dim), in float64."""
    return gram(features.double())
