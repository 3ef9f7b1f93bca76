"""Conjugate gradients: as cheap as gradient descent, and slowed by √κ instead of κ."""

from collections.abc import Iterator

import torch

from harness.probe import LinearProbe, ProbeAttacker, Split


class ConjugateGradient(ProbeAttacker):
    """Nonlinear conjugate gradients by exact line search (Polak & Ribière, 1969), restarted at negative β.

    On the squared loss these are the linear ones of Hestenes & Stiefel (1952).
    """

    name = "conjugate_gradient"
    deterministic = True

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """One direction at a time."""
        loss, gradient = model.gradient(data)
        direction = -gradient
        while True:
            model.weight.data.add_(direction, alpha=model.exact_step(data, direction))
            yield loss
            loss, fresh = model.gradient(data)
            norm = gradient @ gradient
            beta = torch.clamp(fresh @ (fresh - gradient) / norm, min=0) if norm > 0 else norm
            direction, gradient = beta * direction - fresh, fresh
            if direction @ gradient > 0:  # rounding has turned it uphill
                direction = -gradient
