"""Gradient checkpointing that is right for weights that replace a network's own, and for gradients of gradients.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016). Torch recomputes a block in the backward
pass, when the weights, attention kernels and layers of the forward pass may have been put back already (see
`defenses._unroll`). Here a block keeps the tensors and settings that it was called with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint


def checkpointed(block: nn.Module, *inputs: Any) -> Any:
    """Call `block` on `inputs` without keeping its activations; the backward pass computes them again."""
    tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    kernels, classes = _kernels(), [(layer, type(layer)) for layer in block.modules()]

    def call(*inputs: Any) -> Any:
        with _restored(kernels, classes):
            return functional_call(block, tensors, inputs)

    return checkpoint(call, *inputs, use_reentrant=False)


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
