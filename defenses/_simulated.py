"""Losses of a text-to-image model as functions of its weights, for `defenses._bilevel`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from defenses._bilevel import Loss, Weights
from harness.diffusion import Batch, TextToImage


def denoising(model: TextToImage, names: Sequence[str], batch: Batch, *, twice: bool = False) -> Loss:
    """The denoising loss of `batch` as a function of the U-Net weights with these `names`.

    twice: whether it must be twice differentiable, which the default attention on a CPU is not.
    """

    def loss(weights: Weights) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext():
            return model.denoising_loss(batch, dict(zip(names, weights, strict=True)))

    return loss


def size(model: TextToImage, names: Sequence[str], batch: Batch) -> Loss:
    """‖ε_θ(x_t, t)‖², the mean square of the U-Net's output on `batch` (SOPHON, S&P 2024, denial of service), as a
    function of the U-Net weights with these `names`. Of a model that predicts velocities it is the mean square of
    these."""

    def loss(weights: Weights) -> torch.Tensor:
        return model.predictions(batch, dict(zip(names, weights, strict=True))).square().mean()

    return loss


def drift(model: TextToImage, names: Sequence[str], batch: Batch, original: Mapping[str, torch.Tensor]) -> Loss:
    """Mean squared difference of the U-Net's outputs on `batch` from those with the weights `original`, by name, as a
    function of the U-Net weights with these `names`."""
    with torch.no_grad():
        known = model.predictions(batch, original)

    def loss(weights: Weights) -> torch.Tensor:
        return functional.mse_loss(model.predictions(batch, dict(zip(names, weights, strict=True))), known)

    return loss
