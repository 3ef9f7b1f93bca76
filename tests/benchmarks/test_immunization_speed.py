"""A step of MIMA against a plain unroll, and how its cost grows with the number of concepts, on the small base.

`make bench`; read the ratio in the table's brackets, and the memory with `--benchmark-json`. Not asserted: a timing is
no test. The plain unroll is the one that the tests take for an oracle: concept by concept, the text encoder at every
pass of the U-Net and once for the rows of a merge, the whole system of which is solved for every matrix.
"""

import math
from collections.abc import Callable

import pytest
import torch

from harness.diffusion import Concept, ConceptData, Targets, TextToImage
from harness.meter import PeakMemory
from tests.diffusion.helpers import noise
from tests.diffusion.reference import CAPTIONS, plain_harm

SETTINGS = {"inner_lr": 1.0, "ridge": 1e-4, "inner_weights": "keys_values", "mode": "paper"}
OBJECTS = ("trouser", "pullover", "dress", "sandal", "sneaker", "bag", "boot", "zero", "four", "seven")
ROWS = 4


def _targets(model: TextToImage, names: tuple[str, ...]) -> Targets:
    concepts = [
        Concept(name=name, kind="object", prompt="a photo of {}", class_prompt="a photo", class_word="object")
        for name in names
    ]
    subjects = tuple(ConceptData(of, noise(8, i, 32), model, i, noise(1)) for i, of in enumerate(concepts))
    return Targets(model, subjects, names, CAPTIONS, noise(len(CAPTIONS), 9, 32), 5)


def _ours(build, model: TextToImage, names: tuple[str, ...], inner_steps: int) -> Callable[[], float]:
    defense = build("defense", "mima", batch_size=ROWS, inner_steps=inner_steps, **SETTINGS)
    upper = model.unfreeze(list(model.weights("cross_attention").values()))
    losses = defense.harmful_losses(model, _targets(model, names))

    def step() -> float:
        return float(sum(gradient.sum() for gradient in torch.autograd.grad(next(losses), upper)))

    return step


def _plain(model: TextToImage, names: tuple[str, ...], inner_steps: int) -> Callable[[], float]:
    of = _targets(model, names)
    upper = model.unfreeze(list(model.weights("cross_attention").values()))
    drawn = zip(*(given.batches(given.concept.prompted(), ROWS) for given in of), strict=True)

    def step() -> float:
        steps = [list(next(drawn)) for _ in range(inner_steps)]
        harm = plain_harm(model, of, steps, list(next(drawn)), SETTINGS)
        return float(sum(gradient.sum() for gradient in torch.autograd.grad(harm, upper)))

    return step


def _measure(benchmark, step: Callable[[], float]) -> None:
    """Its time, and two figures of memory: `saved_mb`, what the graphs keep for the backward passes, and `peak_mb`,
    by how much resident memory rises, in which the allocator's gaps count too."""
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    memory = PeakMemory()
    step()
    benchmark.extra_info |= {"saved_mb": sum(saved.values()) / 2**20, "peak_mb": memory.risen()}
    assert math.isfinite(benchmark.pedantic(step, rounds=12, warmup_rounds=1))


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("concepts", [2, 3])
@pytest.mark.parametrize("by", ["ours", "plain"])
def test_against_a_plain_unroll(benchmark, build, by: str, concepts: int, inner_steps: int) -> None:
    benchmark.group = f"one step of MIMA, {concepts} concepts, {inner_steps} inner steps"
    model, names = TextToImage.load("small"), OBJECTS[:concepts]
    _measure(benchmark, _ours(build, model, names, inner_steps) if by == "ours" else _plain(model, names, inner_steps))


@pytest.mark.parametrize("concepts", [2, 3, 5, 10])
@pytest.mark.benchmark(group="one step of MIMA by the number of concepts")
def test_growth(benchmark, build, concepts: int) -> None:
    _measure(benchmark, _ours(build, TextToImage.load("small"), OBJECTS[:concepts], 1))
