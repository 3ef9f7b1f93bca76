"""Nesterov's accelerated gradient, with its step size from the spectrum of the features."""

from collections.abc import Iterator

import torch

from harness.probe import LinearProbe, ProbeAttacker, Split


class Nesterov(ProbeAttacker):
    """Accelerated full-batch gradient descent with step size 1/L (Nesterov, 1983).

    L is the largest curvature, from the largest singular value of the features. Until the momentum first starts anew,
    the loss after t gradient evaluations is at most 2L‖w*‖²/(t + 1)² above the optimum, whose head is w*; no method
    that follows gradients has a better order in t. The momentum starts anew after a step uphill (O'Donoghue & Candès,
    2015), so the smallest curvature need not be known.
    """

    name = "nesterov"
    deterministic = True

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Take steps from the point ahead of the probe; yields the loss at this point before each step."""
        step, weight, speed = 1 / model.smoothness(data), model.weight.data, 1.0
        probe, ahead = weight.clone(), weight.clone()
        while True:
            weight.copy_(ahead)
            loss, gradient = model.gradient(data)
            weight.sub_(gradient, alpha=step)
            change = weight - probe
            if gradient @ change > 0:
                speed = 1.0
            faster = (1 + (1 + 4 * speed**2) ** 0.5) / 2
            probe, ahead, speed = weight.clone(), weight + (speed - 1) / faster * change, faster
            yield loss
