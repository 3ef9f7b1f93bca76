"""The attacker that the condition-number theory speaks of."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field

from harness.probe import LinearProbe, ProbeAttacker, Split


class GradientDescent(ProbeAttacker):
    """Gradient descent on all rows, by exact line search (ICML 2025, Figure 1) or with step 1/L."""

    name = "gradient_descent"
    deterministic = True

    step: Literal["line_search", "1/L"] = Field("line_search", description="how long a step is")

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Step against the gradient."""
        fixed = 1 / model.smoothness(data) if self.step == "1/L" else None
        while True:
            loss, gradient = model.gradient(data)
            step = model.exact_step(data, -gradient) if fixed is None else fixed
            model.weight.data.sub_(gradient, alpha=step)
            yield loss
