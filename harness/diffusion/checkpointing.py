"""Gradient checkpointing that is right for weights that replace a network's own, and saves memory in derivatives of all
orders.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016). Torch's own checkpointing computes a block
again in the backward pass, when the weights, attention kernels and layers of the forward pass may have been put back
already (see `defenses._unroll`), and a gradient of a gradient keeps all that was computed again. Here a block keeps the
tensors and settings that it was called with, and so does its vector-Jacobian product, a function like the block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

Function = Callable[..., Any]
"""A function of tensors that returns a tensor, or a tuple of tensors and None."""


def checkpointed(block: nn.Module, *inputs: Any) -> Any:
    """Call `block` on `inputs` without keeping its activations; each backward pass computes them again. The block must
    draw no random numbers."""
    tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    leaves, structure = tree_flatten((tensors, inputs))
    given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    others = [None if isinstance(leaf, torch.Tensor) else (leaf,) for leaf in leaves]
    kernels, classes = _kernels(), [(layer, type(layer)) for layer in block.modules()]
    device = given[0].device.type
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)

    def call(*given: torch.Tensor) -> Any:
        left = iter(given)
        tensors, inputs = tree_unflatten([next(left) if other is None else other[0] for other in others], structure)
        with _restored(kernels, classes), torch.autocast(device, dtype, enabled, cache_enabled=False):
            return functional_call(block, tensors, inputs)

    return _Recomputed.apply(call, *given)


class _Recomputed(torch.autograd.Function):
    """Calls a function of tensors, and keeps the tensors only."""

    @staticmethod
    def forward(ctx: Any, function: Function, *inputs: torch.Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *vectors: torch.Tensor | None) -> Any:
        wanted = [place for place, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        known = [place for place, vector in enumerate(vectors) if vector is not None]
        product = _product(ctx.function, len(ctx.saved_tensors), wanted, known)
        gradients = _Recomputed.apply(product, *ctx.saved_tensors, *(vectors[place] for place in known))
        every: list[Any] = [None] * len(ctx.saved_tensors)
        for place, gradient in zip(wanted, gradients, strict=True):
            every[place] = gradient
        return None, *every


def _product(function: Function, count: int, wanted: Sequence[int], known: Sequence[int]) -> Function:
    """The vector-Jacobian product of `function` as a function of its inputs and of vectors for its outputs.

    count: number of inputs. wanted: the inputs whose gradients it returns. known: the outputs that have a vector. Where
    torch records gradients it is differentiable.
    """

    def product(*given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        twice = torch.is_grad_enabled()
        inputs, vectors = list(given[:count]), given[count:]
        for place in range(count):
            if not (twice and inputs[place].requires_grad):
                inputs[place] = inputs[place].detach().requires_grad_(place in wanted)
        with torch.enable_grad():
            outputs = function(*inputs)
            outputs = [outputs] if isinstance(outputs, torch.Tensor) else [outputs[place] for place in known]
            pairs = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o is not None and o.requires_grad]
            if not pairs:
                return (None,) * len(wanted)
            return torch.autograd.grad(
                [output for output, _ in pairs],
                [inputs[place] for place in wanted],
                [vector for _, vector in pairs],
                create_graph=twice,
                allow_unused=True,
            )

    return product


def _kernels() -> list[SDPBackend]:
    """The attention kernels that are allowed now."""
    cuda = torch.backends.cuda
    allowed = {
        SDPBackend.MATH: cuda.math_sdp_enabled(),
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: cuda.cudnn_sdp_enabled(),
    }
    return [kernel for kernel, is_allowed in allowed.items() if is_allowed]


@contextlib.contextmanager
def _restored(kernels: Sequence[SDPBackend], classes: Sequence[tuple[nn.Module, type[nn.Module]]]) -> Iterator[None]:
    """Allow these attention kernels, and give these layers their classes, within the block."""
    before = [(layer, type(layer)) for layer, _ in classes]
    with sdpa_kernel(list(kernels)):
        try:
            _set(classes)
            yield
        finally:
            _set(before)


def _set(classes: Sequence[tuple[nn.Module, type[nn.Module]]]) -> None:
    for layer, kind in classes:
        if type(layer) is not kind:
            layer.__class__ = kind
