"""One loop for every network of the recipe: data-parallel over processes of one thread, seeded and resumable.

Every draw depends on the seed, the lesson, the step and the process alone, so a run that was cut off and resumed ends
with the weights of one that was not.
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

from harness.plan import seed_of

Tensors = dict[str, torch.Tensor]


class Lesson(ABC):
    """What one network learns, and how long. Made anew in every process from the recipe's folder."""

    name: ClassVar[str]
    steps: ClassVar[int]
    rows: ClassVar[int] = 32
    """rows of a step, over all processes"""
    lr: ClassVar[float]
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    weight_decay: ClassVar[float] = 0.01
    warm_up: ClassVar[int] = 150
    save_every: ClassVar[int] = 500
    ema: ClassVar[float] = 0.999
    """decay of the averaged weights, which are the result"""

    network: Any
    """a torch module"""

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Read what earlier steps of the recipe left in `folder` and build `network`."""

    @abstractmethod
    def loss(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        """The scalar loss on `rows` rows that `draw` chooses."""


def train(
    lesson: type[Lesson], folder: Path, seed: int, processes: int, tell: Callable[[str], None] = print
) -> Tensors:
    """The averaged weights of a lesson's network, also left as `<name>.safetensors` in `folder`; at once if they are
    there already. A checkpoint is written every `save_every` steps and taken up again. `processes` must divide the
    rows."""
    done = folder / f"{lesson.name}.safetensors"
    if not done.exists():
        with tempfile.TemporaryDirectory() as meeting:
            arguments = (lesson, folder, seed, processes, f"file://{meeting}/point", tell)
            spawn(_process, arguments, processes)
    return safetensors.load(done.read_bytes())


def seconds(lesson: type[Lesson], folder: Path) -> float:
    """What training took, over all its parts."""
    with safe_open(folder / f"{lesson.name}.safetensors", "pt") as file:
        return float(file.metadata()["seconds"])


def _process(
    rank: int, lesson: type[Lesson], folder: Path, seed: int, processes: int, meeting: str, tell: Callable[[str], None]
) -> None:
    torch.set_num_threads(1)
    parent = os.getppid()
    torch.manual_seed(seed_of("initialise", lesson.name, seed))  # the same weights in every process
    taught = lesson(folder)
    network = taught.network
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        weights, lesson.lr, betas=lesson.betas, weight_decay=lesson.weight_decay, fused=True
    )  # fmt: skip
    average = [weight.detach().clone() for weight in weights]
    checkpoint = folder / f"{lesson.name}.checkpoint.safetensors"
    start, spent = _resume(checkpoint, weights, average, optimiser)
    began = perf_counter() - spent
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    running = 0.0
    for step in range(start, lesson.steps):
        if os.getppid() != parent:  # it was killed: nobody waits for the rest
            return
        draw = torch.Generator().manual_seed(seed_of("draw", lesson.name, seed, step, rank))
        torch.manual_seed(draw.initial_seed())
        optimiser.param_groups[0]["lr"] = lesson.lr * _schedule(step, lesson)
        loss = taught.loss(lesson.rows // processes, draw)
        optimiser.zero_grad()
        loss.backward()
        _share_gradients(weights, processes)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        # Early averages must not remember the first random weights.
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - min(lesson.ema, (1 + step) / (10 + step)))
        running += (float(loss.detach()) - running) / min(step - start + 1, 200)
        if rank == 0 and ((step + 1) % lesson.save_every == 0 or step + 1 == lesson.steps):
            tell(f"{lesson.name}: step {step + 1} of {lesson.steps}, loss {running:.4f}")
            _save(checkpoint, weights, average, optimiser, step + 1, perf_counter() - began)
    if rank == 0:
        state = network.state_dict()
        names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        state |= dict(zip(names, average, strict=True))
        tensors = {name: value.contiguous() for name, value in state.items()}
        write(tensors, folder / f"{lesson.name}.safetensors", {"seconds": f"{perf_counter() - began:.0f}"})
        checkpoint.unlink(missing_ok=True)
    distributed.destroy_process_group()


def _schedule(step: int, lesson: type[Lesson]) -> float:
    """Linear warm-up, then half a cosine to zero."""
    return min(1, (step + 1) / lesson.warm_up) * 0.5 * (1 + math.cos(math.pi * step / lesson.steps))


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
    """Take up a checkpoint; the step to go on with, and the seconds spent so far."""
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
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(safetensors.save(tensors, notes))
    partial.replace(path)
