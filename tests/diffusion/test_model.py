"""Loading pipelines of any size, prompts, latents, the loss, sampling."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch.nn import functional

from harness.diffusion import Batch, TextToImage
from harness.diffusion import model as diffusion_model
from harness.diffusion.base_model import layout_fault
from harness.diffusion.located import Files
from harness.diffusion.model import as_images, as_pixels, denoising_target
from harness.errors import RunError, UsageError
from tests.diffusion.helpers import SAMPLING, noise, pipeline


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_pipeline_folder_of_other_sizes(base: Path, precision: str) -> None:
    model = TextToImage.load(str(base), precision)
    images, finite = model.sample(["an artwork by marvo"] * 2, [1, 2], **SAMPLING)
    assert images.shape == (2, 16, 16, 3)
    assert finite.all()
    exact, _ = TextToImage.load(str(base)).sample(["an artwork by marvo"] * 2, [1, 2], **SAMPLING)
    assert np.abs(images.astype(int) - exact).mean() < 2  # half precision is nearly the same


def test_a_pipeline_saved_in_half_precision_loads_in_single(tmp_path: Path) -> None:
    pipeline().to(dtype=torch.float16).save_pretrained(tmp_path)
    model = TextToImage.load(str(tmp_path))
    assert model.dtype == torch.float32
    assert model.sample(["a photo"], [1], **SAMPLING)[1].all()


def test_what_is_trained_is_single_precision(base: Path) -> None:
    model = TextToImage.load(str(base), "fp16")
    weights = model.unfreeze(list(model.unet.conv_in.parameters()))
    latents, draws = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    loss = model.denoising_loss(Batch(latents, ["a photo"] * 2, draws, torch.tensor([5, 900])))
    loss.backward()
    assert loss.dtype == torch.float32
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)


@pytest.mark.parametrize("name", ["no/such-model", "nowhere"])
def test_no_hub_in_reach(name: str) -> None:
    advice = f"hf download {name} --local-dir DIR` and run the suite with `--base DIR`"
    with pytest.raises(RunError, match=f"cannot load the base model '{name}'.*{advice}") as error:
        TextToImage.load(name)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot load the base"):
        TextToImage.load(str(tmp_path))


def _rewrite(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            "has addition_embed_type = None, where a",
        ),
        ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}, "is a StableDiffusion3Pipeline; this"),
        ("unet/config.json", {"in_channels": 9}, "has 9 input and 4 output channels, as for inpainting"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "has addition_embed_type = text_time, so"),
    ],
    ids=["xl_without_size", "sd3", "inpainting", "time_ids"],
)
def test_other_layouts_are_refused_in_one_line(base: Path, tmp_path: Path, file: str, fields: dict, message: str):
    """In the plan already, from the configuration files alone, and for the hub's models when they are loaded."""
    for part in ("model_index.json", "unet/config.json"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_text((base / part).read_text())
    Files().base(str(tmp_path))
    _rewrite(tmp_path / file, **fields)
    for refused, read in ((UsageError, Files().base), (RunError, TextToImage.load)):
        with pytest.raises(refused, match=message) as error:
            read(str(tmp_path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["small", "no/such-model", "nowhere"])
def test_layouts_that_are_not_refused(name: str) -> None:
    """The small base model's, and those that are not on this machine yet."""
    assert layout_fault(name) is None


def test_a_pipeline_without_cross_attention(tmp_path: Path) -> None:
    made = pipeline()
    made.unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1, mid_block_type=None,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, cross_attention_dim=24,
    )  # fmt: skip
    made.save_pretrained(tmp_path)
    with pytest.raises(RunError, match="no cross-attention"):
        TextToImage.load(str(tmp_path))


def test_a_prompt_past_the_tokenizers_length(model: TextToImage) -> None:
    with pytest.raises(RunError, match=r"the prompt 'a( a){29}' has 30 tokens; this base model reads at most 18"):
        model.text(["a" + " a" * 29])


def test_prompts_are_embedded_once_while_the_text_encoder_is_frozen(model: TextToImage) -> None:
    calls = []
    model.text_encoder.register_forward_hook(lambda *of: calls.append(1))
    first, again = (model.text(["a photo", "a bag", "a photo"]) for _ in range(2))
    assert len(calls) == 1
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[2])
    alone = model.text_encoder(model.tokens(["a bag"])).last_hidden_state[0]
    torch.testing.assert_close(first[1], alone)
    model.unfreeze([model.text_encoder.get_input_embeddings().weight])
    assert model.text(["a photo"]).requires_grad


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_against_its_definition(prediction: str, tmp_path: Path) -> None:
    """x_t = √ᾱ x + √(1 − ᾱ) ε; the target is ε or v = √ᾱ ε − √(1 − ᾱ) x."""
    pipeline(prediction).save_pretrained(tmp_path)
    model = TextToImage.load(str(tmp_path))
    x, e, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 400, 999])
    kept = model.scheduler.alphas_cumprod[t].sqrt()[:, None, None, None]
    lost = (1 - model.scheduler.alphas_cumprod[t]).sqrt()[:, None, None, None]
    target = e if prediction == "epsilon" else kept * e - lost * x
    torch.testing.assert_close(denoising_target(model.scheduler, x, e, t), target)
    prompts = ["a photo", "a bag", "an artwork"]
    with torch.no_grad():
        predicted = model.unet(kept * x + lost * e, t, model.text(prompts)).sample
        expected = functional.mse_loss(predicted, target)
        torch.testing.assert_close(model.denoising_loss(Batch(x, prompts, e, t)), expected)


def test_an_unknown_prediction_type(model: TextToImage) -> None:
    model.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(RunError, match="predicts 'sample'"):
        denoising_target(model.scheduler, *(torch.zeros(1, 4, 8, 8) for _ in range(2)), torch.tensor([1]))


def test_a_picture_depends_on_its_own_seed_and_prompt(model: TextToImage) -> None:
    """Not on its neighbours, the rows of a batch, or the global generator."""
    prompts = ["a photo", "an artwork", "a bag"]
    together, _ = model.sample(prompts, [1, 2, 3], **SAMPLING)
    torch.manual_seed(4)
    alone, _ = model.sample(prompts[1:2], [2], **SAMPLING)
    small, _ = model.sample(prompts, [1, 2, 3], rows=2, **SAMPLING)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert np.abs(together.astype(int) - small).max() <= 1


def test_sampling_is_the_pipelines_own(base: Path, model: TextToImage) -> None:
    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    theirs = plain(
        "a photo of a bag", num_inference_steps=3, guidance_scale=2.0, generator=torch.Generator().manual_seed(9),
        output_type="np",
    ).images  # fmt: skip
    ours, _ = model.sample(["a photo of a bag"], [9], **SAMPLING)
    assert np.abs(ours / 255 - theirs).max() < 0.01
    other, _ = model.sample(["a photo of a bag"], [9], sampler="dpm", steps=3, guidance=2.0)
    assert not np.array_equal(ours, other)


def test_a_negative_prompt_is_the_pipelines_own(base: Path, model: TextToImage) -> None:
    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    theirs = plain(
        "a photo of a bag", num_inference_steps=3, guidance_scale=20.0, generator=torch.Generator().manual_seed(9),
        negative_prompt="an artwork", output_type="np",
    ).images  # fmt: skip
    strong = {**SAMPLING, "guidance": 20.0}
    ours, _ = model.sample(["a photo of a bag"], [9], **strong, negative="an artwork")
    without, _ = model.sample(["a photo of a bag"], [9], **strong)
    assert np.abs(ours / 255 - theirs).max() < 0.01 < np.abs(ours / 255 - without / 255).max()


def test_pictures_that_are_not_finite_are_reported(model: TextToImage) -> None:
    with torch.no_grad():
        model.unet.conv_out.bias.fill_(float("nan"))
    _, finite = model.sample(["a photo"], [1], **SAMPLING)
    assert not finite.any()


def test_latents_round_trip_scales(model: TextToImage) -> None:
    images = noise(3)
    latents = model.encode(images)
    with torch.no_grad():
        raw = model.vae.encode(as_pixels(torch.from_numpy(images))).latent_dist.mode()
        decoded = model.vae.decode(raw).sample
    torch.testing.assert_close(latents, 0.5 * raw)
    assert np.array_equal(model.decode(latents), as_images(decoded))


def test_the_autoencoder_takes_few_large_pictures_and_many_small_ones(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of at most PIXELS_AT_ONCE pixels, and at least one picture; with the values of one by one."""
    rows: list[int] = []
    for name in ("encode", "decode"):
        plain = getattr(model.vae, name)
        monkeypatch.setattr(model.vae, name, lambda part, plain=plain: (rows.append(len(part)), plain(part))[1])
    images = noise(5)
    whole = model.encode(images)
    decoded, (drawn, _) = model.decode(whole), model.sample(["a photo"] * 3, [1, 2, 3], **SAMPLING)
    assert rows == [5, 5, 3]
    for pixels, parts in ((2 * 16 * 16, [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr(diffusion_model, "PIXELS_AT_ONCE", pixels)
        rows.clear()
        latents = model.encode(images)
        assert rows == parts
        torch.testing.assert_close(latents, whole)
        assert np.abs(model.decode(whole).astype(int) - decoded).max() <= 1
        assert rows == parts * 2
        assert np.abs(model.sample(["a photo"] * 3, [1, 2, 3], **SAMPLING)[0].astype(int) - drawn).max() <= 1
    torch.testing.assert_close(whole, torch.cat([model.encode(images[i : i + 1]) for i in range(5)]))


def test_pixels_round_trip() -> None:
    images = noise(2)
    assert np.array_equal(as_images(as_pixels(torch.from_numpy(images))), images)
