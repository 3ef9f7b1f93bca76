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

BALANCED = 8
"""Batches over which norms of gradients are averaged. Of a base model that was trained on the benign task, the norm on
one batch varies by a factor of two, and λ with it."""


Term = tuple[str, float, torch.Tensor]
"""Name, weight and value (a differentiable scalar) of a regulariser."""


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
        f"tail is the weight times that of the benign loss, mean over {BALANCED} batches before the first step; "
        "absolute: as they are",
    )

    def regularisers(
        self, model: Network, benign: torch.Tensor, harmful: torch.Tensor, y: torch.Tensor
    ) -> Sequence[Term]:
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
        scales = self._balanced(model, benign, harmful, draw) if self.weighting == "balance" else {}
        model.train(self.statistics == "released")
        try:
            for _ in range(self.steps):
                loss, terms = self.objective(model, next(benign), next(harmful), draw)
                loss = loss + sum((scales.get(name, w) * value for name, w, value in terms), torch.zeros_like(loss))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                yield loss.detach()
        finally:
            optimiser.zero_grad()
            model.eval()
        targets.notes.update({f"weight of {name}": scale for name, scale in scales.items()})

    def objective(
        self, model: Released, benign: Rows, harmful: Rows, draw: torch.Generator
    ) -> tuple[torch.Tensor, list[Term]]:
        """The benign loss on a batch and the regularisers of a batch of each task that have a weight. draw: generator
        of random numbers."""
        kept, prevented = (model.features(rows.x) for rows in (benign, harmful))
        loss = nn.functional.cross_entropy(model.head(kept), benign.y, label_smoothing=self.smoothing)
        return loss, [term for term in self.regularisers(model, kept, prevented, harmful.y) if term[1] > 0]

    def _balanced(
        self, model: Released, benign: Iterator[Rows], harmful: Iterator[Rows], draw: torch.Generator
    ) -> dict[str, float]:
        """The factor λ of each regulariser by name, that balances mean norms of gradients."""
        norms: dict[str, float] = {}
        for _ in range(BALANCED):
            loss, terms = self.objective(model, next(benign), next(harmful), draw)
            for name, value in (("", loss), *((name, value / weight) for name, weight, value in terms)):
                norms[name] = norms.get(name, 0.0) + _norm(model, value)
        task = norms.pop("")
        return {name: task / norm if norm > 0 else 0.0 for name, norm in norms.items()}


def _norm(model: Network, scalar: torch.Tensor) -> float:
    """The norm of a scalar's gradient with respect to the tail."""
    weights = list(model.tail.parameters())
    gradients = torch.autograd.grad(scalar, weights, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(part.double().square().sum()) for part in gradients if part is not None))


def gram64(features: torch.Tensor) -> torch.Tensor:
    """The Gram matrix (rows, rows) of `features` (rows, dim), in float64."""
    return gram(features.double())


def adapted_head(x: torch.Tensor, y: torch.Tensor, steps: int) -> torch.Tensor:
    """A head (dim, classes) of zeros after steps of gradient descent of length 1/L on the cross-entropy of a batch.

    x: features (rows, dim), in which the head is differentiable. y: classes (rows). steps: their number.
    """
    truth = nn.functional.one_hot(y).to(x.dtype)
    step = 2 / torch.linalg.matrix_norm(x.detach(), 2) ** 2
    head = torch.zeros(x.shape[1], truth.shape[1])
    for _ in range(steps):
        head = head - step * (x.T @ ((x @ head).softmax(1) - truth))
    return head
