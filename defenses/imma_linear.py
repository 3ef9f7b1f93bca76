"""IMMA (ECCV 2024) for a linear probe, the second baseline of the condition-number paper."""

import torch
from pydantic import Field

from defenses._extractor import Batch, ExtractorDescent
from harness.probe import losses, losses_slope


class ImmaLinear(ExtractorDescent):
    """Benign loss minus the harmful loss of a probe that a few unrolled steps train (IMMA, ECCV 2024).

    The inner problem of a bi-level optimisation trains the probe, the outer problem the extractor, which is
    differentiated through the inner steps. Each has the length rate/L, with the curvature L of the batch, so it
    descends for features of any scale. A loss class in the released code of ICML 2025, which nothing there uses, has
    no inner problem: it subtracts the harmful loss of the benign task's own head (preset `released`). That reproduces
    the map of the paper's baseline IMMA on digits; the unrolled steps do not.
    """

    name = "imma_linear"
    presets = {"house_prices": {"epochs": 100, "lr": 5e-3, "task_loss": "squared"}, "released": {"inner_steps": 0}}

    inner_steps: int = Field(
        5, ge=0, description="number of unrolled steps of the probe, on the squared loss; 0: the benign task's head"
    )
    rate: float = Field(1.0, gt=0, lt=2, description="length of an inner step, in units of 1/L")
    weight: float = Field(1.0, gt=0, description="weight of the ascended harmful loss")

    def objective(self, benign: Batch, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """Benign loss minus the weighted loss of the probe on the harmful batch."""
        return self.loss(benign, head) - self.weight * self._reached(harmful, head)

    def _reached(self, harmful: Batch, head: torch.Tensor) -> torch.Tensor:
        """The loss on the harmful batch after the inner steps; without any, that of `head`."""
        if not self.inner_steps:
            # The released code labels the benign digit 0 and the harmful one 1; here both are 1.
            return self.loss(harmful, -head if self.task_loss == "logistic" else head)
        x, y = harmful.features, harmful.y
        step = self.rate * len(y) / (2 * torch.linalg.matrix_norm(x.detach(), 2) ** 2)
        probe = torch.zeros_like(head)
        for _ in range(self.inner_steps):
            probe = probe - step * (x.T @ losses_slope(x @ probe, y, "squared"))
        return losses(x @ probe, y, "squared")
