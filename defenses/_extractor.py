"""Trains a linear extractor on an objective of its batch features, with exact gradients at low cost.

The paper's reference step differentiates through eigenvalues of dim×dim Hessians and solves dim×dim systems. A batch
has few rows, which allows four savings with the same gradients: the objective is differentiated with respect to the
(rows, dim) features only; Woodbury's identity applies the preconditioner on the batch; one forward and one backward
product with the weights serve all terms; and input columns that are constant over the data (MNIST's margin) are stored
once, because they get equal gradients and hence equal Adam updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from harness.probe import Extractor, ProbeDefense, ProbeTargets, Split, gram, initial_extractor, losses

Preconditioner = Literal["released", "paper", "none"]


@dataclass(frozen=True)
class Batch:
    """A batch of one task for an objective.

    features, dummy: the same values (rows, dim); gradients with respect to `dummy` (the paper's dummy layer) are
    preconditioned. y: targets (rows).
    """

    features: torch.Tensor
    dummy: torch.Tensor
    y: torch.Tensor

    @property
    def gram(self) -> torch.Tensor:
        """The Gram matrix FFᵀ (rows, rows) of the dummy layer's features, the argument of the regularisers."""
        return gram(self.dummy)


Objective = Callable[[Batch, Sequence[Batch], torch.Tensor], torch.Tensor]


class ExtractorDescent(ProbeDefense):
    """Adam on a randomly initialised extractor and a head, for an objective that a subclass defines."""

    epochs: int = Field(30, ge=1, description="passes over the training rows")
    lr: float = Field(1e-3, gt=0, description="Adam's step size")
    batch_size: int = Field(64, ge=1, description="rows of each task in a batch; the last, smaller batch is dropped")
    preconditioner: Preconditioner = Field(
        "none",
        description="side on which K⁻¹ multiplies the regularisers' gradient ∇W, W = θᵀ: paper: ∇W K⁻¹; released: "
        "K⁻¹ ∇W, as in the released code; none",
    )
    ridge_benign: float = Field(1.0, gt=0, description="added to the diagonal of the benign K before inversion")
    ridge_harmful: float = Field(1e-7, gt=0, description="added to the diagonal of the harmful K before inversion")
    task_loss: Literal["logistic", "squared"] = Field("logistic", description="loss on a task, where one is used")

    def loss(self, batch: Batch, head: torch.Tensor) -> torch.Tensor:
        """The `task_loss` (a scalar) of the weights `head` (dim) on `batch`."""
        return losses(batch.features @ head, batch.y, self.task_loss)

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """The scalar to minimise, a function of the `benign` and the `harmful` batch and of the weights of `head`
        (dim)."""
        raise NotImplementedError

    def members(self, targets: ProbeTargets) -> Sequence[Split]:
        """The harmful tasks that each have a batch in a step: all rows of `targets` as one task."""
        return (targets.harmful,)

    def family_objective(self, benign: Batch, members: Sequence[Batch], head: torch.Tensor) -> torch.Tensor:
        """The scalar to minimise, of the batches of all `members` of the family: `objective` of the only one."""
        (harmful,) = members
        return self.objective(benign, harmful, head)

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[torch.Tensor]:
        """Train `model` on the objective. Raises as `train`."""
        return self.train(model, targets, self.family_objective)

    def train(self, model: Extractor, targets: ProbeTargets, objective: Objective) -> Iterator[torch.Tensor]:
        """Train `model` from torch's default initialisation on an `objective` of the arguments of `family_objective`; a
        batch has the same row indices of all tasks. Raises `ValueError` if a task has fewer rows than a batch."""
        tasks = (targets.benign, *self.members(targets))
        rows = min(map(len, tasks))
        if rows < self.batch_size:
            raise ValueError(f"batch_size is {self.batch_size}, but the smallest task has only {rows} rows")
        draw = targets.generator()
        initial_extractor(model, draw)
        head = nn.Parameter(torch.randn(model.out_features, dtype=torch.float64, generator=draw))
        layer = FoldedLinear(model, *(task.x[:rows] for task in tasks))
        optimiser = torch.optim.Adam([layer.weight, layer.bias, head], lr=self.lr, fused=True)
        for _ in range(self.epochs):
            for batch in torch.randperm(rows, generator=draw).split(self.batch_size)[: rows // self.batch_size]:
                yield self._step(layer, head, optimiser, tasks, batch, objective)
        layer.unfold_into(model)

    def _step(
        self,
        layer: FoldedLinear,
        head: nn.Parameter,
        optimiser: torch.optim.Optimizer,
        tasks: Sequence[Split],
        rows: torch.Tensor,
        objective: Objective,
    ) -> torch.Tensor:
        head.grad = None
        features = layer.forward(rows)
        plain = [part.detach().requires_grad_() for part in features]
        dummy = [part.detach().requires_grad_() for part in features]
        benign, *members = (Batch(plain[i], dummy[i], task.y[rows]) for i, task in enumerate(tasks))
        loss = objective(benign, members, head)
        loss.backward()
        ridges = (self.ridge_benign, *[self.ridge_harmful] * len(members))
        layer.backward(rows, [p.grad for p in plain], [d.grad for d in dummy], self.preconditioner, ridges)
        optimiser.step()
        return loss.detach()


class FoldedLinear:
    """The weights of a linear layer in which equal constant input columns are stored once, and its two products.

    layer: the layer to train. inputs: several sets of rows (rows, dim) that are always used together. A group of m
    equal constant columns is represented by its first column u: its contribution to the output is x_u (m·v_u + Σ_group
    w⁰ − m·w⁰_u), with the trained weights v and the initial weights w⁰.
    """

    def __init__(self, layer: nn.Linear, *inputs: torch.Tensor) -> None:
        start = layer.weight.detach()
        rows = torch.cat(inputs)
        columns = torch.arange(rows.shape[1])
        constant = (rows == rows[0]).all(0)
        # Constant columns are identified by their value, all others by their position.
        identity = torch.stack([torch.where(constant, rows[0], 0.0), torch.where(constant, -1, columns)])
        _, group = torch.unique(identity, dim=1, return_inverse=True)
        groups = int(group.max()) + 1
        first = torch.full((groups,), len(group)).scatter_reduce_(0, group, columns, "amin")
        self._group, self._first, self._start = group, first, start.clone()
        self._count = torch.bincount(group, minlength=groups).to(start.dtype)
        total = torch.zeros(len(start), groups, dtype=start.dtype).index_add_(1, group, start)
        rest = total - self._count * start[:, first]
        self._inputs = inputs
        self._folded = [x[:, first] for x in inputs]
        # Only columns that represent a group contribute.
        self._offset = [x[:, self._count > 1] @ rest[:, self._count > 1].T for x in self._folded]
        self.weight = nn.Parameter(start[:, first].clone())
        self.weight.grad = torch.zeros_like(self.weight)  # reused: a new tensor in each step causes page faults
        self.bias = nn.Parameter(layer.bias.detach().clone())

    @torch.no_grad()
    def forward(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """The features (rows, dim) of each input, computed by one product. rows: indices of the rows."""
        x = torch.cat([folded[rows] for folded in self._folded]) * self._count
        out = torch.addmm(self.bias, x, self.weight.T)
        return [part + offset[rows] for part, offset in zip(out.split(len(rows)), self._offset, strict=True)]

    @torch.no_grad()
    def backward(
        self,
        rows: torch.Tensor,
        plain: list[torch.Tensor | None],
        dummy: list[torch.Tensor | None],
        preconditioner: Preconditioner,
        ridges: tuple[float, ...],
    ) -> None:
        """Set the gradients of weight and bias, computed by one product.

        rows: indices of the batch's rows. plain, dummy: for each input the gradient (rows, dim) with respect to the
        features and to the dummy layer's features; the latter is preconditioned with K = XᵀX + ridge·I of the batch.
        preconditioner: see `ExtractorDescent`. ridges: the ridge of each input. Woodbury's identity: K⁻¹G = (G −
        Xᵀ(XXᵀ + ridge)⁻¹XG)/ridge, and X K⁻¹ = (XXᵀ + ridge)⁻¹X.
        """
        left, right = [], []
        bias = torch.zeros_like(self.bias)
        for i, x in enumerate(self._inputs):
            folded = self._folded[i][rows]
            through = dummy[i]
            for gradient in (plain[i], through):
                if gradient is not None:
                    bias += gradient.sum(0)
            if through is not None and preconditioner != "none":
                batch = x[rows]
                damped = batch @ batch.T + ridges[i] * torch.eye(len(rows), dtype=batch.dtype)
                if preconditioner == "paper":
                    left.append(through)
                    right.append(torch.linalg.solve(damped, folded))
                    through = None
                else:
                    inner = torch.linalg.solve(damped, batch @ through.T)
                    through = (through - inner.T @ batch) / ridges[i]
            terms = [gradient for gradient in (plain[i], through) if gradient is not None]
            if terms:
                left.append(sum(terms[1:], terms[0]))
                right.append(folded)
        torch.mm(torch.cat(left).T, torch.cat(right), out=self.weight.grad)
        self.bias.grad = bias

    @torch.no_grad()
    def unfold_into(self, layer: nn.Linear) -> None:
        """Write the full weights into `layer`, in place."""
        change = self.weight - self._start[:, self._first]
        torch.add(self._start, change[:, self._group], out=layer.weight)
        layer.bias.copy_(self.bias)
