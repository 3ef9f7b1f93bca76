"""Memory and arithmetic of each method at Stable Diffusion's size, counted on abstract models: no GPU, no weights.

Run `pytest tests/benchmarks/test_counted_memory.py --benchmark-only --benchmark-json FILE` and read in the extra
information `peak_gib`, for an attacker `drawing_gib` when it draws between its steps, and `tflop` and `kernels` of a
further step.
Each case takes minutes.
"""

import numpy as np
import pytest

from harness import configured
from harness.diffusion.abstract import AbstractModel
from harness.diffusion.demands import drawing, training

BASE = "CompVis/stable-diffusion-v1-4"
CASES = {
    "lora": ("attacker", 1),
    "dreambooth": ("attacker", 1),
    "custom_diffusion": ("attacker", 1),
    "ascent 2": ("defense", 2),
    "mima 1": ("defense", 1),
    "mima 2": ("defense", 2),
    "mima 3": ("defense", 3),
    "joint 2": ("defense", 2),
    "joint 3": ("defense", 3),
    "compose 2": ("defense", 2),
}
"""By plugin and number of concepts: kind of the plugin, and that number. All have their default settings."""
MODES = {"plain": ("fp32", False), "checkpointing": ("fp32", True), "bf16": ("bf16", True)}
"""Precision, and whether checkpointing is on."""
LIMITS = {"lora": 8, "dreambooth": 14, "mima 3": 20, "joint 3": 20}
"""GiB in fp32 with checkpointing, so that a card of 24 GiB runs every method."""


@pytest.mark.benchmark(group="counted memory at 512 pixels")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_training(benchmark, case: str, mode: str) -> None:
    """A defense, or an attacker with the pictures that it draws between its steps."""
    kind, concepts = CASES[case]
    spec = configured(kind, case.partition(" ")[0], {})
    counted = benchmark.pedantic(training, (spec, BASE, *MODES[mode], concepts), rounds=1)
    benchmark.extra_info |= {
        "peak_gib": counted.peak / 2**30, "drawing_gib": counted.drawing / 2**30,
        "tflop": counted.further.flops / 1e12, "kernels": counted.further.kernels,
    }  # fmt: skip
    assert counted.changed < counted.peak
    if mode == "checkpointing":
        assert counted.peak <= LIMITS.get(case, 24) * 2**30
        assert counted.drawing <= 14 * 2**30


@pytest.mark.benchmark(group="counted memory at 512 pixels")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_drawing(benchmark, precision: str) -> None:
    """As many pictures as are drawn at once."""
    counted = benchmark.pedantic(drawing, (BASE, precision), rounds=1)
    step = counted.step
    benchmark.extra_info |= {"peak_gib": counted.peak / 2**30, "tflop": step.flops / 1e12, "kernels": step.kernels}
    assert counted.peak <= 8 * 2**30


@pytest.mark.benchmark(group="counted memory at 512 pixels")
def test_encoding(benchmark) -> None:
    """64 pictures, above the weights."""
    model, black = AbstractModel(BASE), np.zeros((64, 512, 512, 3), np.uint8)
    with model.counting() as counter:
        before = counter.bytes
        benchmark.pedantic(model.model.encode, (black,), rounds=1)
    benchmark.extra_info |= {"peak_gib": (counter.peak - before) / 2**30, "tflop": counter.flops / 1e12}
    assert counter.peak - before <= 4 * 2**30
