"""What the stages of every track share: quiet surroundings for a job, and its tensors on disk."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import torch as safetensors


@contextlib.contextmanager
def alone(seed: int) -> Iterator[None]:
    """One torch thread and random numbers begun from `seed`, so that where a job runs changes nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Tensors by name as safetensors."""
    path.write_bytes(safetensors.save({name: value.contiguous() for name, value in tensors.items()}))


def load(path: Path) -> dict[str, torch.Tensor]:
    """What `save` left."""
    return safetensors.load(path.read_bytes())
