"""Conjugate gradients with full reorthogonalisation: the worst case of all methods that follow gradients."""

from collections.abc import Iterator

import torch

from harness.probe import LinearProbe, ProbeAttacker, Split, best_on


class Krylov(ProbeAttacker):
    """The lowest loss in the span of the gradients evaluated so far (Hestenes & Stiefel, 1952).

    For the squared loss these are the conjugate gradients on the normal equations, kept conjugate against rounding by
    full reorthogonalisation. After t gradient evaluations no method that stays in the span of its gradients (gradient
    descent, momentum, Nesterov's, with any step sizes) has a lower training loss (Nemirovski & Yudin, 1983), so this
    attacker is their exact worst case. For the logistic loss the minimum over the span is found without any further
    gradient of the features, which is no worst case but at least as good as line searches along the gradients.
    """

    name = "krylov"
    deterministic = True

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Minimise over one direction more in each step; yields the loss before it.

        A step multiplies once by the features and once by their transpose, as one gradient evaluation does: the outputs
        of the directions are kept, and with them those of the probe.
        """
        directions, outputs = data.x.new_empty(data.x.shape[1], 0), data.x.new_empty(len(data), 0)
        while True:
            loss, direction = model.gradient(data)
            output = data.x @ direction
            size = output.norm()
            for _ in range(2):  # once more against rounding (Giraud et al., 2005)
                overlap = outputs.T @ output
                output, direction = output - outputs @ overlap, direction - directions @ overlap
            if output.norm() > 1e-8 * size:
                directions = torch.cat([directions, (direction / output.norm())[:, None]], 1)
                outputs = torch.cat([outputs, (output / output.norm())[:, None]], 1)
                model.weight.data.copy_(directions @ best_on(outputs, data.y, model.kind))
            yield loss
