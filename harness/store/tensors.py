"""Files of tensors in artifacts, as safetensors. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bounded import read_bytes

if TYPE_CHECKING:
    import torch


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write `tensors`, by name, to the file `path`."""
    from safetensors.torch import save

    path.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}))


def load_tensors(path: Path, limit: int | None = None) -> dict[str, torch.Tensor]:
    """The tensors by name in the file `path`, which `save_tensors` wrote. limit: largest length of a file of others, in
    bytes; raises the errors of `harness.bounded.read_bytes`."""
    from safetensors.torch import load

    return load(path.read_bytes() if limit is None else read_bytes(path, limit))
