"""An attack step against its bare forward and backward, and sampling, on the small base.

`make bench`; read the ratio in the table's brackets. Not asserted: a timing is no test.
"""

from pathlib import Path

import pytest
import torch

import harness
from harness.diffusion import Concept, ConceptData, TextToImage

STYLE = Concept(name="marvo", kind="style", prompt="an artwork by {}", class_prompt="an artwork", class_word="artwork")
CONCEPTS = Path(__file__).parents[2] / "suites" / "concepts" / "small_styles.yaml"
CELL = """
format: 1
name: cell
version: 1
title: One group, one attacker
seeds: 1
grids:
  - name: cell
    track: diffusion
    tasks: [{{concepts: {}, groups: two, first: 1}}]
    defenses: {{none: }}
    attackers: {{lora: {{preset: small}}}}
"""


def _subject(model: TextToImage) -> ConceptData:
    images, _ = model.sample([STYLE.prompted()] * 20, range(20), sampler="ddim", steps=20, guidance=3.0)
    return ConceptData(STYLE, images, model, 1, images[:0])


@pytest.mark.benchmark(group="one LoRA step on the small base")
def test_lora_step(benchmark, build) -> None:
    model = TextToImage.load("small")
    steps = build("attacker", "lora", "small").adapt(model, _subject(model))
    next(steps)
    assert torch.isfinite(benchmark.pedantic(next, (steps,), rounds=60, warmup_rounds=5))


@pytest.mark.benchmark(group="one LoRA step on the small base")
def test_bare_lora_forward_and_backward(benchmark, build) -> None:
    """The same adapters, the U-Net alone: no data, no noise, no optimiser."""
    model = TextToImage.load("small")
    subject = _subject(model)
    next(build("attacker", "lora", "small").adapt(model, subject))
    batch = next(subject.batches(STYLE.prompted(), 4))
    text = model.text(batch.prompts)

    def bare() -> torch.Tensor:
        loss = model.unet(batch.latents, batch.times, text).sample.square().mean()
        loss.backward()
        return loss.detach()

    assert torch.isfinite(benchmark.pedantic(bare, rounds=60, warmup_rounds=5))


@pytest.mark.benchmark(group="16 pictures by 20 DDIM steps, guidance 3")
def test_sampling(benchmark) -> None:
    model = TextToImage.load("small")
    settings = {"sampler": "ddim", "steps": 20, "guidance": 3.0}
    images, finite = benchmark.pedantic(
        model.sample, (["a photo of a boot"] * 16, range(16)), settings, rounds=5, warmup_rounds=1
    )
    assert finite.all()
    assert images.shape == (16, 32, 32, 3)


@pytest.mark.benchmark(group="a whole cell")
def test_a_whole_cell(benchmark, tmp_path: Path) -> None:
    """Everything one group needs for one attacker, in this process; its highest resident memory in `extra_info`."""
    suite = tmp_path / "cell.yaml"
    suite.write_text(CELL.format(CONCEPTS))
    result = benchmark.pedantic(harness.run, (str(suite),), {"workers": 1, "store": tmp_path / "store"}, rounds=1)
    status = Path("/proc/self/status").read_text()
    benchmark.extra_info["peak_mb"] = int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) / 1024
    assert not result.failed
