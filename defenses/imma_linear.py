"""IMMA (ECCV 2024) for a linear probe, the second baseline of the condition-number paper."""

from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from harness.probe import losses, losses_slope


class ImmaLinear(ExtractorDescent):
    """Ascent on the harmful loss that a probe reaches in a few unrolled steps (IMMA, ECCV 2024).

    A baseline of ICML 2025, whose authors released no code for it. A bi-level optimisation: the inner problem trains
    the probe, the outer problem the extractor. The inner steps are unrolled and differentiated through. Each has the
    length rate/L, with the curvature L of the batch, so it descends for features of any scale. The objective includes
    the loss of the benign task, so that this task stays learnable.
    """

    name = "imma_linear"
    presets = {"house_prices": {"epochs": 100, "lr": 5e-3, "task_loss": "squared"}}

    inner_steps: int = Field(5, ge=1, description="number of unrolled steps of the probe")
    rate: float = Field(1.0, gt=0, lt=2, description="length of an inner step, in units of 1/L")
    weight: float = Field(1.0, gt=0, description="weight of the ascended harmful loss after the inner steps")
    task_loss: Literal["logistic", "squared"] = Field("logistic", description="loss on the benign task")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """Benign loss minus the weighted loss of the adapted probe on the harmful batch."""
        x, y = harmful.features, harmful.y
        step = self.rate * len(y) / (2 * torch.linalg.matrix_norm(x.detach(), 2) ** 2)
        probe = torch.zeros_like(head)
        for _ in range(self.inner_steps):
            probe = probe - step * (x.T @ losses_slope(x @ probe, y, "squared"))
        reached = losses(x @ probe, y, "squared")
        return losses(benign.features @ head, benign.y, self.task_loss) - self.weight * reached
