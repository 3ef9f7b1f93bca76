"""Moves the activations of any torch module towards noise (RepNoise, NeurIPS 2024)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import nn

Noise = Literal["standard", "channels"]


@contextlib.contextmanager
def recorded(layers: Iterable[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Append the outputs of `layers`, in the order of the calls, to the list within the `with` block."""
    outputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output)) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def rows(activations: torch.Tensor) -> torch.Tensor:
    """Activations as rows (places, channels): of pictures (n, channels, height, width) or of tokens (…, channels)."""
    if activations.ndim == 4:
        activations = activations.movedim(1, -1)
    return activations.flatten(0, -2)


def mmd(x: torch.Tensor, y: torch.Tensor, bandwidth: torch.Tensor | None = None) -> torch.Tensor:
    """The squared maximum mean discrepancy of two samples, a scalar (Gretton et al., 2012, Eq. 5, biased).

    The kernel is the sum of the Gaussians exp(−d²/(2ᵏ w)), k = −2, …, 2.

    x, y: samples, (rows, channels). bandwidth: w; None: the mean squared distance of all pairs of rows, a constant in
    the derivative, as in the code of RepNoise.
    """
    every = torch.cat([x, y])
    squares = every.square().sum(1)
    distances = (squares[:, None] + squares - 2 * every @ every.T).clamp_min(0)
    if bandwidth is None:
        bandwidth = distances.detach().sum() / (len(every) ** 2 - len(every))
    kernel = torch.stack([torch.exp(-distances / (2.0**k * bandwidth)) for k in range(-2, 3)]).sum(0)
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def distance_from_noise(
    activations: torch.Tensor, noise: Noise, draw: torch.Generator, samples: int = 32
) -> torch.Tensor:
    """The `mmd` of random rows of activations and Gaussian noise, a scalar.

    activations: see `rows`. noise: standard: of mean 0 and deviation 1; channels: with the mean and the deviation of
    each channel, as constants. draw: generator of the rows and the noise, on the CPU. samples: number of rows, at most
    all.
    """
    every = rows(activations).to(torch.promote_types(activations.dtype, torch.float32))
    chosen = every[torch.randperm(len(every), generator=draw)[:samples].to(every.device)]
    drawn = torch.randn(chosen.shape, generator=draw, dtype=torch.float64).to(every)
    if noise == "channels":
        drawn = every.detach().mean(0) + every.detach().std(0) * drawn
    return mmd(chosen, drawn)
