"""Unrolled gradient descent: an attacker's steps stay in the graph, so a defense can differentiate through them.

With checkpointing the graph keeps the weights before and after each step only: the derivative of a step is computed for
one concept and one picture after the other, and their sum is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import count_gradient
from harness.diffusion import KEYS_VALUES, Batch, TextToImage

Loss = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""A scalar as a function of tensors."""


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
    if model.checkpointing and len(steps[0]) > 1:
        alone = partial(descend, model, weights, lr=lr, normalised=normalised, first_order=first_order)
        each = [alone([[step[n]] for step in steps]) for n in range(len(steps[0]))]
        return {name: torch.cat([one[name] for one in each]) for name in weights}
    names = list(weights)
    by_picture = model.checkpointing and not first_order  # then derivatives are needed of the ascended weights only
    starts = [weight if by_picture and _is_single(weight) else _differentiable(weight) for weight in weights.values()]
    adapted = [weight.expand(len(steps[0]), *weight.shape) for weight in starts]
    for batches in steps:
        if by_picture:
            gradients = _by_picture(model, batches[0], dict(zip(names, adapted, strict=True)))
        else:
            losses = losses_apart(model, batches, dict(zip(names, adapted, strict=True)), twice=not first_order)
            gradients = torch.autograd.grad(losses.sum(), adapted, create_graph=not first_order)
        sizes = gradients[0].new_full((len(batches),), lr)
        if normalised:
            sizes = lr * _norms(adapted) / _norms(gradients)
        adapted = [
            weight - sizes.view(-1, *[1] * (weight.ndim - 1)) * gradient
            for weight, gradient in zip(adapted, gradients, strict=True)
        ]
    return dict(zip(names, adapted, strict=True))


def _is_single(weight: torch.Tensor) -> bool:
    """Whether the weight has the precision in which weights are trained, or a higher one."""
    return weight.dtype in (torch.float32, torch.float64)


def _differentiable(weight: torch.Tensor) -> torch.Tensor:
    """The weight, in float32 if it is in half precision, for which gradients are recorded."""
    weight = weight if _is_single(weight) else weight.float()
    return weight if weight.requires_grad else weight.detach().requires_grad_()


def losses_apart(
    model: TextToImage,
    batches: Sequence[Batch],
    weights: Mapping[str, torch.Tensor],
    *,
    twice: bool,
    shared: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The losses (concepts,) of the concepts' batches, each computed with the concept's own weights.

    batches: one per concept, all of one size. weights: U-Net weights of `model`, (concepts, …) by name. twice: whether
    the result must be twice differentiable, which the default attention on a CPU is not. shared: further weights that
    replace the U-Net's own, the same for all concepts.
    """
    common = dict(shared or {})
    attention = sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext()
    with attention:
        layers = {f"{name}.weight": layer for name, layer in model.unet.named_modules() if _may_be_grouped(name, layer)}
        if set(weights) <= set(layers):  # one pass for all concepts
            count_gradient(0, len(batches) - 1)  # the pass counts as one gradient, and is one for each concept
            with _grouped(layers[name] for name in weights):
                losses = model.denoising_losses(Batch.join(batches), {**common, **weights})
            return losses.unflatten(0, (len(batches), -1)).mean(1)
        return torch.stack(
            [
                model.denoising_loss(batch, {**common, **{name: weight[n] for name, weight in weights.items()}})
                for n, batch in enumerate(batches)
            ]
        )


def _by_picture(model: TextToImage, batch: Batch, weights: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The gradients of one concept's loss with respect to `weights`, (1, …) by name, twice differentiable."""
    others = {
        name: weight for name, weight in model.unet.named_parameters() if weight.requires_grad and name not in weights
    }
    pictures = batch.split()

    def loss(picture: Batch, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        adapted, shared = (
            dict(zip(weights, tensors, strict=False)),
            dict(zip(others, tensors[len(weights) :], strict=True)),
        )
        return losses_apart(model, [picture], adapted, twice=True, shared=shared)[0] / len(pictures)

    count_gradient(0, 1 - len(pictures))  # their mean is one gradient
    losses = [partial(loss, picture) for picture in pictures]
    return _SummedGradient.apply(losses, len(weights), *weights.values(), *others.values())


class _SummedGradient(torch.autograd.Function):
    """The gradient of a sum of losses that keeps the graph of none of them: its derivative multiplies vectors by the
    Hessian of one loss after the other.

    losses: functions of tensors. count: number of the tensors, from the first, whose gradients it returns.
    """

    @staticmethod
    def forward(ctx: Any, losses: Sequence[Loss], count: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.losses, ctx.count = losses, count
        ctx.save_for_backward(*tensors)
        at = [tensor.detach().requires_grad_(place < count) for place, tensor in enumerate(tensors)]
        for loss in losses:  # each backward pass adds to the same gradients, so there is one copy of them
            with torch.enable_grad():
                loss(at).backward(inputs=at[:count])
        return tuple(torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in at[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *vectors: torch.Tensor) -> tuple[Any, ...]:
        pairs = list(zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True))
        at = [tensor.detach().requires_grad_(needed) for tensor, needed in pairs]
        wanted = [tensor for tensor in at if tensor.requires_grad]

        def product(loss: Loss) -> tuple[torch.Tensor, ...]:
            move = vectors[0].new_zeros((), requires_grad=True)
            with torch.enable_grad():
                moved = [_Moved.apply(*pair, move) for pair in zip(at, vectors, strict=False)]
                (slope,) = torch.autograd.grad(loss([*moved, *at[ctx.count :]]), move, create_graph=True)
            return torch.autograd.grad(slope, wanted, materialize_grads=True)

        products = iter(_sum(map(product, ctx.losses)))
        count_gradient(-len(ctx.losses), -len(ctx.losses))  # computed again: they were counted in the forward pass
        return None, None, *(next(products) if needed else None for needed in ctx.needs_input_grad[2:])


class _Moved(torch.autograd.Function):
    """A tensor plus `move` times a vector, at `move` = 0. The derivative by `move` is the product of gradient and
    vector, so the gradients of all tensors are never in memory together."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, vector: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(vector)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        return gradient, None, (gradient * ctx.saved_tensors[0]).sum()


def _sum(parts: Iterable[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """The sums over `parts`, tensor by tensor, of which one part at a time is in memory."""
    each = iter(parts)
    total = next(each)
    for part in each:
        for tensor, other in zip(total, part, strict=True):
            tensor.add_(other)
    return total


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
