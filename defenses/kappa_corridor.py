"""Raises the harmful condition number while multipliers hold the benign one in a corridor."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from harness.probe import Extractor, ProbeTargets, condition_number, gram


class KappaCorridor(ExtractorDescent):
    """Descent on −log κ(H_H) with |log κ(H_P) − log κ₀| ≤ δ by multipliers (our extension of "Opt κ", ICML 2025).

    `opt_kappa` and `condition_number` weight their terms by constants, which must be chosen anew for each task. Here
    multipliers are the weights, as in the augmented Lagrangian (Hestenes, 1969; Powell, 1969): for the violations g₊ =
    log κ(H_P) − log κ₀ − δ and g₋ = log κ₀ − δ − log κ(H_P) of a batch, each step descends on −log κ(H_H) + Σ max(0, λ
    + ρg)²/(2ρ) and ends with λ ← max(0, λ + ηg). κ₀ is the condition number of batches of the base model's features.
    """

    name = "kappa_corridor"

    width: float = Field(0.1, ge=0, description="δ, half of the corridor's width, in units of log κ")
    penalty: float = Field(10.0, gt=0, description="ρ, weight of the squared violations")
    dual_lr: float = Field(0.1, ge=0, description="η, step size of the multipliers")
    weight_task: float = Field(0.0, ge=0, description="weight of the benign task's loss")
    policy: Literal["floor", "range"] = Field("floor", description="κ policy of the condition numbers")
    floor: float = Field(1e-6, gt=0, description="floor under the κ policy floor")

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[torch.Tensor]:
        """Compute κ₀ as the geometric mean over all whole batches of benign rows, and train."""
        batches = model.features(targets.benign).x.split(self.batch_size)
        whole = batches[: max(1, len(targets.benign) // self.batch_size)]
        centre = torch.stack([self.log_kappa(gram(batch)) for batch in whole]).mean().detach()
        multipliers = torch.zeros(2, dtype=torch.float64)

        def lagrangian(benign: Batch, members: Sequence[Batch], head: torch.Tensor) -> torch.Tensor:
            (harmful,) = members
            distance = self.log_kappa(benign.gram) - centre
            violations = torch.stack([distance - self.width, -distance - self.width])
            forces = (multipliers + self.penalty * violations).clamp(min=0)
            value = forces.square().sum() / (2 * self.penalty) - self.log_kappa(harmful.gram)
            multipliers.add_(violations.detach(), alpha=self.dual_lr).clamp_(min=0)
            return self.weight_task * self.loss(benign, head) + value

        return self.train(model, targets, lagrangian)

    def log_kappa(self, matrix: torch.Tensor) -> torch.Tensor:
        """log κ of the Hessian with the Gram matrix `matrix` (rows, rows)."""
        return condition_number(matrix, self.floor if self.policy == "floor" else None).log()
