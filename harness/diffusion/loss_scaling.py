"""Loss scaling for half precision that is invisible outside of a network, also to second derivatives.

Source: Micikevicius et al., "Mixed Precision Training" (ICLR 2018), Sec. 3.2, which scales the loss. Here the gradients
are scaled where they enter a network (at its output) and divided by the same factor where they leave it (at its weights
and other inputs), so the code that trains sees neither.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch


class LossScaling(NamedTuple):
    """A factor on all gradients within a network. factor: the factor, a power of two, so that scaling is exact."""

    factor: float

    @classmethod
    def of(cls, elements: int) -> LossScaling:
        """The scaling for a mean squared error over `elements` numbers, whose gradient is near 1 after it: 2¹⁶ for four
        pictures of 512×512 pixels."""
        return cls(2.0 ** round(math.log2(elements)))

    def leaving(self, output: torch.Tensor) -> torch.Tensor:
        """The network's `output`, at which gradients enter the network."""
        return _Identity.apply(output, self.factor)

    def entering(self, given: torch.Tensor) -> torch.Tensor:
        """A weight or an input of the network, at which gradients leave it."""
        return _Identity.apply(given, 1 / self.factor)


class _Identity(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor, factor: float) -> Any:
        ctx.factor = factor
        return given.view_as(given)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _Multiplied.apply(gradient, ctx.factor), None


class _Multiplied(torch.autograd.Function):
    """A gradient times a factor, for which a second derivative is not multiplied again.

    With respect to weights, a second derivative passes the network forwards with the tangents of the gradients and then
    backwards. Only the latter are scaled, once, because they are products with the scaled gradients.
    """

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, factor: float) -> Any:
        return gradient * factor

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None
