"""Trains the small networks of this track on Fashion-MNIST: `python -m harness.deep.recipe NAME DATA OUT`.

NAME is resnet18_small or vit_small. DATA is a folder with the four idx files of the whole data set
(https://github.com/zalandoresearch/fashion-mnist), as they are or packed by gzip. OUT is the folder to write into; a
second call goes on after the last finished epoch, also after a kill. On one core an epoch takes about 80 s for either
network.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from harness.deep import extractors
from harness.errors import RunError

SEED = 1
ROWS = 128
"""Pictures in a batch."""


@dataclass(frozen=True)
class Setting:
    """How a network is trained: AdamW with a one-cycle schedule. epochs: number of them. lr: largest step size."""

    epochs: int
    lr: float


SETTINGS: Mapping[str, Setting] = {"resnet18_small": Setting(4, 4e-3), "vit_small": Setting(8, 2e-3)}


def read(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (rows, 1, 28, 28) from −1 to 1, float32, and classes (rows) of a split.

    folder: the folder of the idx files. split: `train` or `t10k`. Raises `RunError` if a file is missing.
    """
    images = _idx(folder, f"{split}-images-idx3-ubyte").reshape(-1, 1, 28, 28)
    labels = _idx(folder, f"{split}-labels-idx1-ubyte")
    return torch.from_numpy(images).float() / 127.5 - 1, torch.from_numpy(labels).long()


def _idx(folder: Path, name: str) -> Any:
    """The bytes of an idx file, without its header: a number of dimensions and their sizes."""
    path = next((folder / file for file in (name, f"{name}.gz") if (folder / file).is_file()), None)
    if path is None:
        raise RunError(f"{folder} has no {name} or {name}.gz: put the four files of Fashion-MNIST there")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).copy()


def train(name: str, data: Path, out: Path) -> float:
    """Train the network `name` on the files in `data` and write its weights, in half precision, into `out`; returns the
    accuracy on the test split."""
    torch.manual_seed(SEED)
    network: Any = {"resnet18_small": extractors.resnet18_small, "vit_small": extractors.vit_small}[name]()
    setting = SETTINGS[name]
    x, y = read(data, "train")
    steps = len(y) // ROWS
    optimiser = torch.optim.AdamW(network.parameters(), lr=setting.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, setting.lr, total_steps=setting.epochs * steps)
    state = out / f"{name}.state.pt"
    out.mkdir(parents=True, exist_ok=True)
    done = 0
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        done = saved["epochs"]
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
    for epoch in range(done, setting.epochs):
        draw = torch.Generator().manual_seed(SEED + epoch)
        network.train()
        for places in torch.randperm(len(y), generator=draw).split(ROWS)[:steps]:
            loss = nn.functional.cross_entropy(network(_augmented(x[places], draw)), y[places], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        saved = {
            "epochs": epoch + 1,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
        }
        partial = state.with_suffix(".partial")
        torch.save(saved, partial)
        partial.replace(state)  # a kill leaves a whole file
        print(
            f"{name}: epoch {epoch + 1} of {setting.epochs}, test accuracy {evaluate(network, data):.4f}",
            flush=True,
        )
    half = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    save_file(half, out / f"{name}.safetensors")
    network.load_state_dict({key: value.float() for key, value in half.items()})
    return evaluate(network, data)


def _augmented(x: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """The pictures with three equal channels, half of them mirrored."""
    flipped = torch.where((torch.rand(len(x), generator=draw) < 0.5)[:, None, None, None], x.flip(3), x)
    return flipped.expand(-1, 3, -1, -1)


@torch.no_grad()
def evaluate(network: nn.Module, data: Path) -> float:
    """The accuracy of `network` on the test split of the files in `data`, in inference mode."""
    x, y = read(data, "t10k")
    network.eval()
    right = [
        (network(part.expand(-1, 3, -1, -1)).argmax(1) == truth).sum()
        for part, truth in zip(x.split(500), y.split(500), strict=True)
    ]
    return float(torch.stack(right).sum()) / len(y)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SETTINGS:
        sys.exit(f"usage: python -m harness.deep.recipe {'|'.join(SETTINGS)} DATA OUT")
    print(f"test accuracy {train(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])):.4f}")
