"""Memory and time of each method at Stable Diffusion's size on a GPU: random weights, pictures of 512×512 pixels.

`pytest tests/benchmarks/test_gpu.py --benchmark-only --benchmark-json FILE` writes into the extra information what
`test_counted_memory.py` counts: `peak_gib` of tensors, `reserved_gib` with the allocator's loss, `seconds` of the third
step, and for an attacker `drawing_gib` when it draws between its steps. With checkpointing in fp32 each method must run
in the memory of a card of 24 GiB. Last, several processes attack the small base model on one GPU.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest
import torch

from harness import configured
from harness.diffusion import Targets, TextToImage
from harness.diffusion.abstract import CAPTIONS
from tests.benchmarks.test_counted_memory import CASES, MODES
from tests.diffusion.helpers import noise, subject
from tests.diffusion.reference import targets
from tests.diffusion.whole_suite import write_stable_diffusion
from tests.helpers import process

pytestmark = pytest.mark.gpu
LARGE, SMALL = "Stable Diffusion's size on a GPU, 512 pixels", "38 attacks of 24 steps on the small base model, one GPU"
SIDE = 512
CARD = 24 * 2**30
"""Memory that a method may take in fp32 with checkpointing."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline of random weights with the sizes of Stable Diffusion 1."""
    folder = tmp_path_factory.mktemp("large")
    write_stable_diffusion(folder, SIDE)
    return str(folder)


def _peaks() -> tuple[int, int]:
    """Highest memory of tensors and of the allocator since the last call, in bytes."""
    peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return peaks


@pytest.fixture
def card(mode: str) -> Iterator[None]:
    """A GPU with no more memory than `CARD`, where the mode is checkpointing in fp32."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, CARD / whole) if mode == "checkpointing" else 1.0)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.benchmark(group=LARGE)
@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_training(benchmark, case: str, mode: str, large: str) -> None:
    """Three steps of a defense, or of an attacker that then draws pictures. Without checkpointing the base model stays
    in memory beside the trained copy, as in a run."""
    kind, concepts = CASES[case]
    precision, checkpointing = MODES[mode]
    base = TextToImage.load(large, precision)
    model = base if checkpointing else base.copy()
    if checkpointing:
        model.checkpoint()
    names = ("marvo", "telune", "sevra")[:concepts]
    of = targets(model, names, SIDE)
    data = (
        Targets(model, of.concepts, names, CAPTIONS, noise(len(CAPTIONS), side=SIDE), 5)
        if kind == "defense"
        else subject(model, of[0].concept, side=SIDE)
    )
    steps = configured(kind, case.partition(" ")[0], {}).build().generator(model, data)
    _peaks()
    seconds = []

    def three() -> None:
        for _ in range(3):
            start = perf_counter()
            next(steps)
            torch.cuda.synchronize()
            seconds.append(perf_counter() - start)

    benchmark.pedantic(three, rounds=1)
    allocated, reserved = _peaks()
    benchmark.extra_info |= {
        "device": torch.cuda.get_device_name(), "peak_gib": allocated / 2**30, "reserved_gib": reserved / 2**30,
        "seconds": seconds[-1],
    }  # fmt: skip
    if kind == "attacker":
        rows = model.drawn_at_once
        model.sample(["a photo"] * rows, range(rows), sampler="ddim", steps=2, guidance=7.5)
        benchmark.extra_info["drawing_gib"] = _peaks()[0] / 2**30
    assert mode != "checkpointing" or reserved <= CARD


@pytest.mark.benchmark(group=LARGE)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_drawing_and_encoding(benchmark, precision: str, large: str) -> None:
    """As many pictures as are drawn at once, by 20 denoising steps; and 64 pictures through the encoder."""
    model = TextToImage.load(large, precision)
    rows = model.drawn_at_once

    def draw() -> None:
        model.sample(["a photo"] * rows, range(rows), sampler="ddim", steps=20, guidance=7.5)

    draw()
    _peaks()
    benchmark.pedantic(draw, rounds=1)
    drawing = _peaks()[0]
    start, weights = perf_counter(), torch.cuda.memory_allocated()
    model.encode(noise(64, side=SIDE))
    torch.cuda.synchronize()
    encoding, seconds = _peaks()[0] - weights, perf_counter() - start
    benchmark.extra_info |= {
        "device": torch.cuda.get_device_name(), "pictures": rows, "drawing_gib": drawing / 2**30,
        "encoding_gib": encoding / 2**30, "encoding_seconds": seconds,
    }  # fmt: skip
    assert encoding <= 4 * 2**30


@pytest.mark.benchmark(group=SMALL)
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_processes_that_share_a_gpu(benchmark, workers: int, tmp_path: Path) -> None:
    """All seeds but the first, which is in the store already. `first_seed`: its seconds, most of which are imports and
    the pictures of the concepts."""
    suite = tmp_path / "suite.yaml"
    tasks = {"concepts": "small_styles", "groups": [["marvo", "telune"]], "others": 0}
    protocol = {"steps": 24, "measure_at": [2, 4, 8, 16, 24], "images": 8, "sheets": 0}
    rows = {"defenses": {"none": {}}, "attackers": {"full": {"lr": 1e-3}}}
    grid = {"name": "styles", "track": "diffusion", "tasks": [tasks], "protocol": protocol, **rows}
    suite.write_text(
        json.dumps({"format": 1, "name": "many", "version": 1, "title": "Many", "seeds": 20, "grids": [grid]})
    )
    one = [suite, "--out", tmp_path / "out", "--workers", workers, "--force"]
    start = perf_counter()
    assert process("run", *one, "--seeds", 1).returncode == 0
    benchmark.extra_info["first_seed"] = perf_counter() - start
    done = benchmark.pedantic(process, ("run", *one), rounds=1)
    assert done.returncode == 0, done.stderr
