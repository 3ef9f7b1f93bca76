"""The training loop of the recipe: data-parallel over single-threaded processes, seeded and resumable.

Every draw depends only on the seed, the network, the step and the process, so a resumed training ends with the same
weights as an uninterrupted one.
"""

from __future__ import annotations

import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors import torch as safetensors
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from harness.stage import seed_of

Tensors = dict[str, torch.Tensor]


class Trainer(ABC):
    """A network with its training data and its loss; every process creates its own from the recipe's folder."""

    name: ClassVar[str]
    steps: ClassVar[int]
    rows: ClassVar[int] = 32
    """Rows of a step, over all processes."""
    lr: ClassVar[float]
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    weight_decay: ClassVar[float] = 0.01
    warm_up: ClassVar[int] = 150
    save_every: ClassVar[int] = 500
    ema: ClassVar[float] = 0.999
    """Decay of the averaged weights, which are the result."""

    network: Any
    """A torch module."""

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Read the files that earlier steps of the recipe wrote into `folder`, and build `network`."""

    @abstractmethod
    def loss(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        """The scalar loss on `rows` rows, drawn with the random generator `draw`."""


def train(
    trainer: type[Trainer], folder: Path, seed: int, processes: int, report: Callable[[str], None] = print
) -> Tensors:
    """Train a network, or load its weights from `<name>.safetensors` in `folder` if this file exists.

    trainer: the network's class. folder: the recipe's folder of intermediate files. seed: seed of all draws. processes:
    number of processes, a divisor of the rows of a step. report: called with each line of progress. Every `save_every`
    steps a checkpoint is written, from which a later call resumes. Returns the averaged weights by name.
    """
    done = folder / f"{trainer.name}.safetensors"
    if not done.exists():
        with tempfile.TemporaryDirectory() as meeting:
            arguments = (trainer, folder, seed, processes, f"file://{meeting}/point", report)
            spawn(_process, arguments, processes)
    return safetensors.load(done.read_bytes())


def seconds(trainer: type[Trainer], folder: Path) -> float:
    """Seconds that a finished training took, without interruptions."""
    with safe_open(folder / f"{trainer.name}.safetensors", "pt") as file:
        return float(file.metadata()["seconds"])


def _process(
    rank: int,
    trainer: type[Trainer],
    folder: Path,
    seed: int,
    processes: int,
    meeting: str,
    report: Callable[[str], None],
) -> None:
    torch.set_num_threads(1)
    parent = os.getppid()
    torch.manual_seed(seed_of("initialise", trainer.name, seed))  # the same weights in every process
    job = trainer(folder)
    network = job.network
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        weights, trainer.lr, betas=trainer.betas, weight_decay=trainer.weight_decay, fused=True
    )
    average = [weight.detach().clone() for weight in weights]
    checkpoint = folder / f"{trainer.name}.checkpoint.safetensors"
    start, spent = _resume(checkpoint, weights, average, optimiser)
    began = perf_counter() - spent
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    running = 0.0
    for step in range(start, trainer.steps):
        if os.getppid() != parent:  # the parent was killed
            return
        draw = torch.Generator().manual_seed(seed_of("draw", trainer.name, seed, step, rank))
        torch.manual_seed(draw.initial_seed())
        optimiser.param_groups[0]["lr"] = trainer.lr * _schedule(step, trainer)
        loss = job.loss(trainer.rows // processes, draw)
        optimiser.zero_grad()
        loss.backward()
        _share_gradients(weights, processes)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        # A lower decay in early steps keeps the random initial weights out of the average.
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - min(trainer.ema, (1 + step) / (10 + step)))
        running += (float(loss.detach()) - running) / min(step - start + 1, 200)
        if rank == 0 and ((step + 1) % trainer.save_every == 0 or step + 1 == trainer.steps):
            report(f"{trainer.name}: step {step + 1} of {trainer.steps}, loss {running:.4f}")
            _save(checkpoint, weights, average, optimiser, step + 1, perf_counter() - began)
    if rank == 0:
        state = network.state_dict()
        names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        state |= dict(zip(names, average, strict=True))
        tensors = {name: value.contiguous() for name, value in state.items()}
        write(tensors, folder / f"{trainer.name}.safetensors", {"seconds": f"{perf_counter() - began:.0f}"})
        checkpoint.unlink(missing_ok=True)
    distributed.destroy_process_group()


def _schedule(step: int, trainer: type[Trainer]) -> float:
    """Factor of the learning rate: linear warm-up times a cosine decay to zero."""
    return min(1, (step + 1) / trainer.warm_up) * 0.5 * (1 + math.cos(math.pi * step / trainer.steps))


def _share_gradients(weights: list[torch.Tensor], processes: int) -> None:
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if processes > 1:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= processes
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _save(
    path: Path,
    weights: list[torch.Tensor],
    average: list[torch.Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    tensors = {"step": torch.tensor(step), "seconds": torch.tensor(seconds)}
    for i, (weight, mean) in enumerate(zip(weights, average, strict=True)):
        tensors |= {f"{i}.weight": weight.detach(), f"{i}.average": mean}
        tensors |= {f"{i}.state.{name}": value for name, value in optimiser.state[weight].items()}
    write({name: value.contiguous() for name, value in tensors.items()}, path)


def _resume(
    path: Path, weights: list[torch.Tensor], average: list[torch.Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    """Load a checkpoint if there is one; returns the step to continue with and the seconds spent so far."""
    if not path.exists():
        return 0, 0.0
    tensors = safetensors.load(path.read_bytes())
    for i, (weight, mean) in enumerate(zip(weights, average, strict=True)):
        with torch.no_grad():
            weight.copy_(tensors[f"{i}.weight"])
            mean.copy_(tensors[f"{i}.average"])
        prefix = f"{i}.state."
        optimiser.state[weight] = {
            name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
        }
    return int(tensors["step"]), float(tensors["seconds"])


def write(tensors: Tensors, path: Path, notes: dict[str, str] | None = None) -> None:
    """Write `tensors` by name, with the metadata `notes`, to the file `path` atomically."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(safetensors.save(tensors, notes))
    partial.replace(path)
