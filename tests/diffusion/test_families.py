"""Families of base models: Stable Diffusion 2, and XL with two text encoders, beside the one of the other tests."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionXLPipeline

from harness.diffusion import Concept, TextToImage
from harness.diffusion.abstract import AbstractModel, Counter
from harness.diffusion.model import Batch
from harness.diffusion.weights import copy_into, fault
from harness.errors import RunError
from tests.diffusion.helpers import SAMPLING, pipeline, run_suite, second_pipeline, subject, xl_pipeline
from tests.diffusion.whole_suite import DEFENSES, write_suite

PROMPTS = ["a photo of a bag", "an artwork by marvo"]


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xl")
    xl_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def model(xl: Path) -> TextToImage:
    return TextToImage.load(str(xl))


@pytest.fixture
def plain(xl: Path) -> StableDiffusionXLPipeline:
    made = StableDiffusionXLPipeline.from_pretrained(xl, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    return made


def test_text_and_predictions_are_the_pipelines_own(model: TextToImage, plain: StableDiffusionXLPipeline) -> None:
    rows, _, pooled, _ = plain.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    torch.testing.assert_close(model.text(PROMPTS), rows)
    latents, noise, times = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    alphas = (1 - torch.linspace(0.0001, 0.02, 1000)).cumprod(0)[times][:, None, None, None]
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise  # not as the pipeline's Euler sampler scales it
    ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)  # size, corner of the crop, size
    with torch.no_grad():
        wanted = plain.unet(noisy, times, rows, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample
        ours = model.predictions(Batch(latents, PROMPTS, noise, times))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negative", ["", "an artwork"])
def test_pictures_are_the_pipelines_own(model: TextToImage, plain: StableDiffusionXLPipeline, negative: str) -> None:
    """Without a negative prompt its embeddings are zeros, as this pipeline says."""
    plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config)
    strong = {**SAMPLING, "guidance": 20.0}
    theirs = plain(
        PROMPTS[0], negative_prompt=negative or None, num_inference_steps=3, guidance_scale=20.0, output_type="np",
        generator=torch.Generator().manual_seed(9),
    ).images  # fmt: skip
    ours, finite = model.copy().sample(PROMPTS[:1], [9], **strong, negative=negative)
    assert finite.all()
    assert np.abs(ours / 255 - theirs).max() < 0.01


def test_both_text_encoders_are_frozen_and_trained(model: TextToImage, build, style: Concept) -> None:
    assert not any(weight.requires_grad for part in model.text_encoders.values() for weight in part.parameters())
    before = {name: weight.clone() for name, weight in model.text_encoders["text_encoder_2"].state_dict().items()}
    attack = build("attacker", "full", lr=0.01)
    for _, _ in zip(range(2), attack.adapt(model, subject(model, style)), strict=False):
        pass
    assert model.changed(before, "text_encoder_2")


def test_an_attacker_with_a_new_word_is_refused(model: TextToImage, build, style: Concept) -> None:
    with pytest.raises(RunError, match=r"one text encoder, and a StableDiffusionXLPipeline has 2"):
        next(build("attacker", "textual_inversion").adapt(model, subject(model, style)))


ROWS = [*DEFENSES, "joint"]


@pytest.mark.parametrize(
    ("family", "rows"),
    [
        ("xl", ["none", "mima", "joint"]),
        pytest.param("xl", ROWS, marks=pytest.mark.slow),
        pytest.param("second", ROWS, marks=pytest.mark.slow),
    ],
)
def test_a_whole_suite(family: str, rows: list[str], xl: Path, tmp_path: Path) -> None:
    """UCE, defenses, among them MIMA on keys and values, and two attackers, with checkpointing."""
    base = xl
    if family == "second":
        second_pipeline().save_pretrained(base := tmp_path / "base")
    suite = write_suite(tmp_path, base, {**DEFENSES, "joint": {"steps": 1, "batch_size": 1}})
    measured = run_suite(suite, defenses=rows)
    assert not measured.failed
    assert set(measured.records["defense"].dropna()) == set(rows)
    assert set(measured.records["attacker"].dropna()) == {"lora", "dreambooth_lora"}
    assert (measured.records["status"] == "ok").all()


def test_the_noise_of_training_is_that_of_the_base_models_scheduler(base: Path) -> None:
    """DDPM's, to the last digit, for the pipelines that add noise as DDPM does."""
    own, latents, noise = pipeline().scheduler, torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    times = torch.tensor([0, 500, 999])
    ours = DDPMScheduler.from_config(own.config).add_noise(latents, noise, times)
    assert torch.equal(ours, own.add_noise(latents, noise, times))


def test_weights_of_a_checkpoint_may_change_both_text_encoders(xl: Path, model: TextToImage, tmp_path: Path) -> None:
    with torch.no_grad():
        model.text_encoders["text_encoder_2"].get_input_embeddings().weight.mul_(2)
    model.pipeline.save_pretrained(tmp_path / "released")
    assert fault(tmp_path / "released", str(xl), "1") is None
    copy = TextToImage.load(str(xl))
    copy_into(copy, tmp_path / "released")
    torch.testing.assert_close(copy.text(PROMPTS), TextToImage.load(str(tmp_path / "released")).text(PROMPTS))
    (tmp_path / "released" / "text_encoder_2" / "model.safetensors").unlink()
    assert "text_encoder_2/model.safetensors" in str(fault(tmp_path / "released", str(xl), "2"))


def test_memory_and_arithmetic_are_counted(xl: Path, model: TextToImage) -> None:
    """As of a real model, whose text encoders are added."""
    abstract = AbstractModel(str(xl))
    parts = [weight.nbytes for part in model.text_encoders.values() for weight in part.parameters()]
    assert abstract.outside == sum(parts)
    data = abstract.targets(2)
    (batch,) = islice(data.concepts[0].batches("an artwork", 2), 1)
    with abstract.counting() as counted, torch.no_grad():
        abstract.model.denoising_loss(batch)
    with Counter() as real, torch.no_grad():
        model.denoising_loss(replace(batch, latents=torch.randn(2, 4, 8, 8), noise=torch.randn(2, 4, 8, 8)))
    assert counted.flops == pytest.approx(real.flops, rel=0.2)  # the text encoders' differ
