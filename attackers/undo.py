"""An attacker that knows the released weights and inverts them."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from pydantic import Field

from attackers.ridge import Ridge
from harness.probe import LinearProbe, TrainingRows


class Undo(Ridge):
    """Ridge regression on the inputs, recovered from the features (a control of this harness, not a published attack).

    The pseudo-inverse of the released weights recovers the inputs. Theorem: an invertible extractor f(x) = xθ + b gives
    x = (f(x) − b)θ⁻¹, so this attacker reaches on every invertible extractor, up to rounding, what it reaches on the
    undefended one. No such extractor protects against an attacker who knows the weights. `standardise` and `intercept`
    apply to the recovered inputs.
    """

    name = "undo"
    knows_weights = True

    intercept: bool = Field(True, description="train an intercept too, as the weight of a feature of ones")

    def generator(self, model: LinearProbe, data: TrainingRows) -> Iterator[torch.Tensor]:
        """Start the regression on the recovered inputs; after each step `model` is its probe on the features. model: a
        probe of zeros. data: the task's training rows, with the extractor."""
        assert data.extractor is not None
        inverse, bias = torch.linalg.pinv(data.extractor.weight.detach()).T, data.extractor.bias.detach()
        probe = LinearProbe(len(inverse.T), model.kind)
        for loss in super().generator(probe, replace(data, x=(data.x - bias) @ inverse)):
            weight = inverse @ probe.weight.data
            model.weight.data.copy_(weight)
            model.bias.copy_(probe.bias - bias @ weight)
            yield loss
