"""Conjugate gradients: steps as cheap as those of gradient descent, and a convergence rate with √κ instead of κ."""

from collections.abc import Iterator

import torch

from harness.probe import LinearProbe, ProbeAttacker, Split


class ConjugateGradient(ProbeAttacker):
    """Nonlinear conjugate gradients with exact line search (Polak & Ribière, 1969), restarted at negative β.

    On the squared loss they equal the linear conjugate gradients of Hestenes & Stiefel (1952).
    """

    name = "conjugate_gradient"
    deterministic = True

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Minimise along one direction after the other; yields the loss before each step."""
        loss, gradient = model.gradient(data)
        direction = -gradient
        while True:
            model.weight.data.add_(direction, alpha=model.exact_step(data, direction))
            yield loss
            loss, fresh = model.gradient(data)
            norm = gradient @ gradient
            beta = torch.clamp(fresh @ (fresh - gradient) / norm, min=0) if norm > 0 else norm
            direction, gradient = beta * direction - fresh, fresh
            if direction @ gradient > 0:  # rounding errors made it an ascent direction
                direction = -gradient
