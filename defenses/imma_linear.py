"""IMMA (ECCV 2024) carried over to a linear probe, the condition-number paper's second baseline."""

from typing import Literal

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from harness.probe import losses, losses_slope


class ImmaLinear(ExtractorDescent):
    """Ascent on the harmful loss that a probe reaches in a few unrolled steps (IMMA, ECCV 2024).

    The baseline of ICML 2025, for which no code was released: bi-level, the probe below, the extractor above.
    The inner steps are unrolled and differentiated through; each has length rate/L, L the batch's curvature, so
    that they descend whatever the features' scale has become. The benign task's loss is added, so that there is
    something to keep.
    """

    name = "imma_linear"
    presets = {"house_prices": {"epochs": 100, "lr": 5e-3, "task_loss": "squared"}}

    inner_steps: int = Field(5, ge=1, description="probe steps that are unrolled")
    rate: float = Field(1.0, gt=0, lt=2, description="length of an inner step, in units of 1/L")
    weight: float = Field(1.0, gt=0, description="on the harmful loss after the inner steps, which is ascended")
    task_loss: Literal["logistic", "squared"] = Field("logistic", description="loss on the benign task")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """Benign loss minus what the adapted probe reaches on the harmful batch."""
        x, y = harmful.features, harmful.y
        step = self.rate * len(y) / (2 * torch.linalg.matrix_norm(x.detach(), 2) ** 2)
        probe = torch.zeros_like(head)
        for _ in range(self.inner_steps):
            probe = probe - step * (x.T @ losses_slope(x @ probe, y, "squared"))
        reached = losses(x @ probe, y, "squared")
        return losses(benign.features @ head, benign.y, self.task_loss) - self.weight * reached
