"""Memory and arithmetic of each method at Stable Diffusion's size, counted on abstract models: no GPU, no weights.

Run `pytest tests/benchmarks/test_counted_memory.py --benchmark-only --benchmark-json FILE` and read `peak_gib`, and
`tflop` of a further step, in the extra information. Each case takes minutes.
"""

import pytest

from harness import configured
from harness.diffusion.demands import training

CASES = {
    "lora": ("attacker", {}, 1),
    "dreambooth": ("attacker", {}, 1),
    "custom_diffusion": ("attacker", {}, 1),
    "ascent": ("defense", {}, 2),
    "mima 1": ("defense", {}, 1),
    "mima 2": ("defense", {}, 2),
    "mima 3": ("defense", {}, 3),
    "joint 2": ("defense", {}, 2),
    "joint 3": ("defense", {}, 3),
    "compose": ("defense", {}, 2),
}


@pytest.mark.benchmark(group="counted memory at 512 pixels, fp32")
@pytest.mark.parametrize("saving", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("case", CASES)
def test_counted_memory(benchmark, case: str, saving: bool) -> None:
    kind, settings, concepts = CASES[case]
    spec = configured(kind, case.partition(" ")[0], settings)
    counted = benchmark.pedantic(training, (spec, "CompVis/stable-diffusion-v1-4", "fp32", saving, concepts), rounds=1)
    benchmark.extra_info |= {"peak_gib": counted.peak / 2**30, "tflop": counted.further / 1e12}
    assert counted.peak > counted.changed
