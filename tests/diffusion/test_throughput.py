"""What is computed once or together: reading base models, encoding and looking at pictures, reading text, drawing."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from harness import plan
from harness.diffusion import Concept, TextToImage
from harness.diffusion import model as diffusion_model
from harness.diffusion.located import Files
from harness.diffusion.measuring import Look
from harness.diffusion.pipeline_stage import forget_base
from harness.diffusion.protocol import Sampling
from harness.diffusion.undefended import Captions, DrawPictures
from tests.diffusion.helpers import SAMPLING, load_suite, noise, run_suite, subject
from tests.diffusion.whole_suite import write_suite


def _calls(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module, name: str = "forward") -> list[int]:
    """The rows of each call of a method from now on."""
    rows, method = [], getattr(module, name)
    monkeypatch.setattr(
        module, name, lambda given, *more, **named: rows.append(len(given)) or method(given, *more, **named)
    )
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("saving", [False, True])
def test_one_process_reads_a_base_model_once(
    saving: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All attacks of all released models. With checkpointing it is read for each job that trains instead, which then
    needs the memory of one model only."""
    read, load = [], TextToImage.load
    monkeypatch.setattr(TextToImage, "load", lambda *given: read.append(given) or load(*given))
    forget_base()
    suite = write_suite(tmp_path, base)
    measured = run_suite(suite, defenses=["none", "mima"], settings=[f"tasks.checkpointing={str(saving).lower()}"])
    assert not measured.failed
    assert len(read) > 10 if saving else len(read) == 1


def test_an_attack_encodes_each_picture_and_its_prompt_once(
    model: TextToImage, style: Concept, build, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, read = _calls(monkeypatch, model.vae, "encode"), []
    model.text_encoder.register_forward_hook(lambda *of: read.append(1))
    list(islice(build("attacker", "lora").adapt(model, subject(model, style, count=5)), 4))
    assert (sum(encoded), len(read)) == (5, 1)


def test_references_are_looked_at_once_for_all_rows(base: Path, tmp_path: Path) -> None:
    jobs = plan.make(load_suite(write_suite(tmp_path, base))).jobs.values()
    looked = Counter(job.images.concept.name for job in jobs if type(job) is Look and type(job.images) is DrawPictures)
    assert looked == {"marvo": 1, "telune": 1}


def test_pictures_of_all_concepts_are_drawn_together(
    base: Path, model: TextToImage, style: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen at once, two rows each for guidance; fewer where they are large."""
    job = Captions(base=Files().base(str(base)), precision="fp32", sampling=Sampling(**SAMPLING), captions=())
    concepts = [style.model_copy(update={"name": name}) for name in ("marvo", "telune", "obrick")]
    drawn = _calls(monkeypatch, model.unet)
    together = job.sample_each(model, concepts, 6, 1)[0]
    assert drawn == [2 * 16] * 3 + [2 * 2] * 3
    drawn.clear()
    monkeypatch.setattr(diffusion_model, "PIXELS_AT_ONCE", 2 * 16 * 16)
    apart = job.sample_each(model, concepts, 6, 1)[0]
    assert drawn == [2 * 4] * 4 * 3 + [2 * 2] * 3
    assert abs(together.astype(int) - apart).max() <= 1


def test_gradients_wait_elsewhere_while_pictures_are_drawn(model: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = next(iter(model.unet.parameters()))
    weight.grad = gradient = torch.ones_like(weight)
    model.unet.register_forward_hook(lambda *of: seen.append(weight.grad))
    seen: list = []
    model.sample(["a photo"], [1], **SAMPLING)
    assert seen == [None] * 3
    assert weight.grad is gradient


def test_the_autoencoder_takes_few_large_pictures_at_once(model: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.encode(noise(5))
    encoded = _calls(monkeypatch, model.vae, "encode")
    monkeypatch.setattr(diffusion_model, "PIXELS_AT_ONCE", 2 * 16 * 16)
    torch.testing.assert_close(model.encode(noise(5)), whole)
    assert encoded == [2, 2, 1]
