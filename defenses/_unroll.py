"""Unrolled gradient descent: an attacker's steps stay in the graph, so a defense can differentiate through them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import count_gradient
from harness.diffusion import KEYS_VALUES, Batch, TextToImage


def descend(
    model: TextToImage,
    weights: Mapping[str, torch.Tensor],
    steps: Sequence[Sequence[Batch]],
    *,
    lr: float,
    normalised: bool = False,
    first_order: bool = False,
) -> dict[str, torch.Tensor]:
    """Gradient descent on each concept separately; the result is differentiable with respect to `weights`.

    weights: U-Net weights of `model` to start from, by name. steps: for each step one batch per concept, all of one
    size. lr: step size. normalised: every step has the length lr · ‖weights‖, for any gradient. first_order: treat the
    gradients as constants (Finn et al., 2017). Returns the adapted weights, (concepts, …) by name.
    """
    names = list(weights)
    adapted = [weight.expand(len(steps[0]), *weight.shape) for weight in weights.values()]
    for batches in steps:
        losses = losses_apart(model, batches, dict(zip(names, adapted, strict=True)), twice=not first_order)
        gradients = torch.autograd.grad(losses.sum(), adapted, create_graph=not first_order)
        sizes = torch.full_like(losses, lr)
        if normalised:
            sizes = lr * _norms(adapted) / _norms(gradients)
        adapted = [
            weight - sizes.view(-1, *[1] * (weight.ndim - 1)) * gradient
            for weight, gradient in zip(adapted, gradients, strict=True)
        ]
    return dict(zip(names, adapted, strict=True))


def losses_apart(
    model: TextToImage, batches: Sequence[Batch], weights: Mapping[str, torch.Tensor], *, twice: bool
) -> torch.Tensor:
    """The losses (concepts,) of the concepts' batches, each computed with the concept's own weights.

    batches: one per concept, all of one size. weights: U-Net weights of `model`, (concepts, …) by name. twice: whether
    the result must be twice differentiable, which the default attention on a CPU is not.
    """
    attention = sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext()
    with attention:
        layers = {f"{name}.weight": layer for name, layer in model.unet.named_modules() if _may_be_grouped(name, layer)}
        if set(weights) <= set(layers):  # one pass for all concepts
            count_gradient(0, len(batches) - 1)  # the pass counts as one gradient, and is one for each concept
            with _grouped(layers[name] for name in weights):
                losses = model.denoising_losses(Batch.join(batches), weights)
            return losses.unflatten(0, (len(batches), -1)).mean(1)
        return torch.stack(
            [
                model.denoising_loss(batch, {name: weight[n] for name, weight in weights.items()})
                for n, batch in enumerate(batches)
            ]
        )


def _norms(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """(concepts,) norms over all tensors (concepts, …)."""
    return torch.stack([tensor.flatten(1).square().sum(1) for tensor in tensors]).sum(0).sqrt()


class _Grouped(nn.Linear):
    """A linear layer with weights (groups, out, in): consecutive parts of the input rows, of equal size, each have
    their own weights."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        parts = input.unflatten(0, (len(self.weight), -1))  # (groups, rows, tokens, in)
        return torch.matmul(parts.flatten(1, 2), self.weight.mT).unflatten(1, parts.shape[1:3]).flatten(0, 1)


def _may_be_grouped(name: str, layer: nn.Module) -> bool:
    """Whether a layer is a key or value projection of the cross-attention, as in diffusers."""
    return f".{name}.".endswith(KEYS_VALUES) and type(layer) is nn.Linear and layer.bias is None


@contextlib.contextmanager
def _grouped(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let these layers take one weight per group inside the `with` block."""
    changed = list(layers)
    for layer in changed:
        layer.__class__ = _Grouped
    try:
        yield
    finally:
        for layer in changed:
            layer.__class__ = nn.Linear
