"""The pairs of linear maps of which a U-Net computes only the product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention


@dataclass(frozen=True)
class Factors:
    """Two factors L and R in each of several groups, of which a U-Net computes only LᵀR: L ← A L and R ← A⁻ᵀ R with an
    invertible A changes no picture.

    left, right: the parts of L and of R, a weight and where there is one a bias, as views (groups, width, columns) of
    the U-Net's own tensors.
    """

    left: tuple[torch.Tensor, ...]
    right: tuple[torch.Tensor, ...]

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of L and R, (groups, width, columns) float64, with a bias as the last column."""
        left, right = (torch.cat([part.double() for part in parts], -1) for parts in (self.left, self.right))
        return left, right

    def write(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Replace L and R in the U-Net by `left` and `right`, which have the shapes that `read` returns."""
        for parts, new in ((self.left, left), (self.right, right)):
            for part, value in zip(parts, new.split([part.shape[-1] for part in parts], -1), strict=True):
                part.copy_(value)


def factors(unet: torch.nn.Module) -> Iterator[Factors]:
    """Yield the factors in `unet`: of each attention layer the queries and the keys of each head, and the values and
    the output of each head; of each feed-forward layer with GEGLU the value half of each hidden unit and the unit's
    output."""
    for layer in unet.modules():
        if isinstance(layer, Attention):
            yield Factors(_rows(layer.to_q, layer.heads), _rows(layer.to_k, layer.heads))
            yield Factors(_rows(layer.to_v, layer.heads), _columns(layer.to_out[0], layer.heads))
        elif isinstance(layer, FeedForward) and isinstance(layer.net[0], GEGLU):
            units = layer.net[2].in_features
            yield Factors(_rows(layer.net[0].proj, units, units), _columns(layer.net[2], units))


def _rows(layer: torch.nn.Linear, groups: int, count: int | None = None) -> tuple[torch.Tensor, ...]:
    """The first `count` outputs of `layer`, or all, as factors: its weight, and its bias if it has one."""
    parts = [layer.weight] if layer.bias is None else [layer.weight, layer.bias[:, None]]
    return tuple(part.detach()[:count].unflatten(0, (groups, -1)) for part in parts)


def _columns(layer: torch.nn.Linear, groups: int) -> tuple[torch.Tensor, ...]:
    """The inputs of `layer` as factors."""
    return (layer.weight.detach().T.unflatten(0, (groups, -1)),)
