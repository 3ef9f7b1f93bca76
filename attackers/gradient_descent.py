"""Gradient descent, the attacker of the condition-number theory."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field

from harness.probe import LinearProbe, ProbeAttacker, Split


class GradientDescent(ProbeAttacker):
    """Full-batch gradient descent with exact line search (ICML 2025, Figure 1) or with step size 1/L."""

    name = "gradient_descent"
    deterministic = True

    step: Literal["line_search", "1/L"] = Field(
        "line_search",
        description="rule for the step size",
        json_schema_extra={"search": {"choices": ["line_search", "1/L"]}},
    )

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Take steps along the negative gradient; yields the loss before each step."""
        fixed = 1 / model.smoothness(data) if self.step == "1/L" else None
        while True:
            loss, gradient = model.gradient(data)
            step = model.exact_step(data, -gradient) if fixed is None else fixed
            model.weight.data.sub_(gradient, alpha=step)
            yield loss
