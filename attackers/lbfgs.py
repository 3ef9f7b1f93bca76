"""L-BFGS: a quasi-Newton method that is easy to use."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.probe import LinearProbe, ProbeAttacker, Split


class LBFGS(ProbeAttacker):
    """Limited-memory BFGS with strong-Wolfe line search (Liu & Nocedal, 1989), one iteration per step.

    An iteration may evaluate the loss and its gradient several times.
    """

    name = "lbfgs"
    deterministic = True

    history: int = Field(
        10,
        ge=1,
        description="number of stored pairs of steps and gradient changes",
        json_schema_extra={"search": {"choices": [5, 10, 20]}},
    )

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Run one iteration after the other with the same history; yields the loss before each iteration."""
        optimiser = torch.optim.LBFGS(
            model.parameters(),
            max_iter=1,
            max_eval=25,
            history_size=self.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            loss, model.weight.grad = model.gradient(data)
            return loss

        while True:
            yield optimiser.step(closure)
