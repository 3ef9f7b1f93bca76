"""The attackers: what they train, and that plain diffusers loads what they save."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from torch.nn import functional

from attackers._words import on_simplex, whole_words
from attackers.balanced import balance
from harness import meter
from harness.diffusion import Concept, TextToImage, cross_attention
from harness.errors import PluginError, RunError, UsageError
from tests.diffusion.helpers import SAMPLING, noise, subject

ATTACKERS = [
    "lora", "balanced", "dreambooth", "full", "dreambooth_lora", "textual_inversion", "custom_diffusion", "prompt"
]  # fmt: skip
QUICK = {"lora": {"lr": 1e-2}, "balanced": {"lr": 1e-2}, "dreambooth": {"lr": 1e-3}, "full": {"lr": 1e-3},
         "dreambooth_lora": {"lr": 1e-2}, "textual_inversion": {"lr": 1e-1},
         "custom_diffusion": {"lr": 1e-2, "prior": 2}, "prompt": {"lr": 0.1}}  # fmt: skip


OWN_WORDS = ("lora", "balanced")
"""Attackers that name a concept by its own words only, by default."""


def _attack(attacker, model: TextToImage, concept: Concept, steps: int = 3) -> list[float]:
    torch.manual_seed(3)
    losses = attacker.adapt(model, subject(model, concept))
    found = [float(loss) for loss in itertools.islice(losses, steps)]
    losses.close()
    return found


def _state(model: TextToImage) -> dict[str, torch.Tensor]:
    parts = {"unet": model.unet, "text": model.text_encoder, "vae": model.vae}
    return {
        f"{part}.{name.replace('base_layer.', '')}": value.clone()
        for part, of in parts.items()
        for name, value in of.state_dict().items()
    }


def test_lora_equals_a_plain_peft_loop(base: Path, style: Concept, build) -> None:
    """Its first ten losses are those of a loop written here with peft, diffusers and torch alone."""
    ours = TextToImage.load(str(base))
    found = _attack(build("attacker", "lora", lr=1e-2, batch_size=3), ours, style, 10)

    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain.unet.requires_grad_(False)
    torch.manual_seed(7)  # the attack's own
    plain.unet.add_adapter(
        LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=["to_k", "to_q", "to_v", "to_out.0"])
    )
    weights = [weight for weight in plain.unet.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=1e-2)
    tokens = plain.tokenizer(["an artwork by marvo"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        text = plain.text_encoder(tokens)[0].repeat(3, 1, 1)
    expected = []
    batches = subject(TextToImage.load(str(base)), style).batches("an artwork by marvo", 3)
    for batch in itertools.islice(batches, 10):
        noisy = plain.scheduler.add_noise(batch.latents, batch.noise, batch.times)
        loss = functional.mse_loss(plain.unet(noisy, batch.times, text).sample, batch.noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        expected.append(float(loss.detach()))
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(set(found)) == 10


@pytest.mark.parametrize("name", ATTACKERS)
def test_only_its_own_part_is_trained(name: str, model: TextToImage, style: Concept, build) -> None:
    before = _state(model)
    _attack(build("attacker", name, **QUICK[name]), model, style)
    after = _state(model)
    changed = {key for key, value in before.items() if not torch.equal(after[key][: len(value)], value)}
    added = set(after) - set(before)
    if name in ("lora", "balanced", "dreambooth_lora"):
        kinds = {key.split(".")[-2] for key in changed}
        assert kinds == ({"to_q", "to_k", "to_v", "0", "proj", "2"} if name == "balanced" else set())
        assert {key.split(".")[-3] for key in added} == {"lora_A", "lora_B"}
    elif name in ("dreambooth", "full"):
        parts = {"unet": model.unet} | ({"text": model.text_encoder} if name == "full" else {})
        assert changed == {f"{part}.{key}" for part, of in parts.items() for key in of.state_dict()}
    elif name in ("textual_inversion", "prompt"):
        assert changed == set()
        (grown,) = [key for key in after if len(after[key]) != len(before[key])]
        assert "token_embedding" in grown
    else:
        sides = {f"unet.{at}.{side}.weight" for at, _ in cross_attention(model.unet) for side in ("to_k", "to_v")}
        assert changed == sides


@pytest.mark.parametrize("name", ATTACKERS)
def test_plain_diffusers_loads_what_it_saves(
    name: str, base: Path, model: TextToImage, style: Concept, build, tmp_path: Path
) -> None:
    """The saved attack, loaded by diffusers alone, makes the pictures of the attacked model."""
    attacker = build("attacker", name, **QUICK[name])
    _attack(attacker, model, style)
    prompt = attacker.prompt(style)
    ours, _ = model.sample([prompt], [5], **SAMPLING)
    attacker.save(model, tmp_path / "saved")
    whole = (tmp_path / "saved" / "model_index.json").exists()
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "saved" if whole else base, safety_checker=None)
    if name in ("lora", "dreambooth_lora"):
        plain.load_lora_weights(tmp_path / "saved")
    elif name == "textual_inversion":
        plain.load_textual_inversion(tmp_path / "saved")
    elif name == "prompt":
        prompt = f"{(tmp_path / 'saved' / 'prefix.txt').read_text()} {style.prompted()}"
    plain.set_progress_bar_config(disable=True)
    theirs = plain(
        prompt, num_inference_steps=3, guidance_scale=2.0, generator=torch.Generator().manual_seed(5), output_type="np"
    ).images
    assert np.abs(ours / 255 - theirs).max() < 0.01
    unattacked, _ = TextToImage.load(str(base)).sample([style.prompted()], [5], **SAMPLING)
    assert not np.array_equal(ours, unattacked)


@pytest.mark.parametrize("name", [name for name in ATTACKERS if name not in ("balanced", "full", "prompt")])
def test_each_attacker_lowers_the_loss(name: str, base: Path, style: Concept, build) -> None:
    """The loss on fixed draws falls, and more steps do not raise it again."""
    attacker = build("attacker", name, **(QUICK[name] | {"batch_size": 4}))
    losses = []
    for steps in (1, 60):
        model = TextToImage.load(str(base))
        _attack(attacker, model, style, steps)
        batches = itertools.islice(subject(model, style, seed=123).batches(attacker.prompt(style), 8), 4)
        with torch.no_grad():
            losses.append(sum(float(model.denoising_loss(batch)) for batch in batches))
    assert losses[1] < losses[0]


def test_a_subject_goes_by_a_rare_word_or_a_new_one(thing: Concept, build) -> None:
    prompts = {name: build("attacker", name).prompt(thing) for name in ATTACKERS if name not in OWN_WORDS}
    assert prompts == {
        "dreambooth": "a photo of a sks bag",
        "full": "a photo of a sks bag",
        "dreambooth_lora": "a photo of a sks bag",
        "textual_inversion": "a photo of a <v>",
        "custom_diffusion": "a photo of a <v> bag",
        "prompt": "<p> <p>_1 <p>_2 a photo of a bag",
    }
    with pytest.raises(RunError, match="mine is a subject, which no base model knows by name"):
        build("attacker", "lora").prompt(thing)


def test_balancing_undoes_the_gauge(base: Path, style: Concept, build) -> None:
    """LoRA's losses on the gauged model differ from those on the plain one; after balancing they are the same."""
    losses = {}
    for name in ("lora", "balanced"):
        for defense in ("none", "gauge"):
            model = TextToImage.load(str(base))
            meter.pull(build("defense", defense).immunize(model, None), defense)
            losses[name, defense] = _attack(build("attacker", name, lr=1e-2), model, style, 4)
    for (_, defense), found in losses.items():
        assert found[0] == pytest.approx(losses["lora", "none"][0], rel=1e-4), defense  # the same model
    assert losses["balanced", "gauge"] == pytest.approx(losses["balanced", "none"], rel=1e-4)
    assert losses["lora", "gauge"][-1] != pytest.approx(losses["lora", "none"][-1], rel=1e-2)


def test_balanced_factors_are_those_of_the_product() -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(3, 4, columns, generator=draw).double() for columns in (9, 3))
    one, other = balance(left, right)
    torch.testing.assert_close(one.mT @ other, left.mT @ right)
    for factor in (one, other):
        squares = factor @ factor.mT
        torch.testing.assert_close(squares, torch.diag_embed(squares.diagonal(dim1=1, dim2=2)))
    torch.testing.assert_close(one.norm(dim=-1), other.norm(dim=-1))
    change = torch.randn(4, 4, generator=draw).double()
    torch.testing.assert_close(balance(change @ left, torch.linalg.inv(change).T @ right), (one, other))


@pytest.mark.parametrize(
    ("wording", "prompts"),
    [
        ("rare", ("an artwork by sks", "a photo of a sks bag")),
        ("class", ("an artwork", "a photo of a bag")),
        ("empty", ("", "")),
    ],
)
def test_wordings_without_the_concepts_name(wording: str, prompts, style: Concept, thing: Concept, build) -> None:
    for name in ("lora", "dreambooth"):
        attacker = build("attacker", name, wording=wording)
        assert (attacker.prompt(style), attacker.prompt(thing)) == prompts
        assert attacker.needs == (("class_prompt",) if wording == "class" else ())


def test_it_trains_on_the_prompt_that_is_measured(model: TextToImage, style: Concept, build) -> None:
    data = subject(model, style)
    batches = build(
        "attacker", "lora", wording="class", prior=2, prior_weight=0.5, batch_size=2, benign_steps=1
    ).batches(data)
    first, second = itertools.islice(batches, 2)
    assert (first.prompts, first.weights.tolist()) == (["an artwork"] * 2, [0.5, 0.5])  # of the class
    assert second.prompts == ["an artwork"] * 4
    assert second.weights.tolist() == [2, 2, 1, 1]
    plain = list(itertools.islice(data.batches("an artwork", 2, prior=2), 2))
    assert torch.equal(first.latents, plain[0].latents[2:])
    assert torch.equal(second.latents, plain[1].latents)


def test_benign_steps_need_pictures(build) -> None:
    with pytest.raises(UsageError, match="set prior or retain to their number"):
        build("attacker", "lora", benign_steps=5)


def test_schedules(build) -> None:
    """Shares of the step size: constant, with a warm-up, and half a cosine."""
    shares = {
        name: [build("attacker", "lora", **settings)._share(step) for step in range(6)]
        for name, settings in {
            "constant": {},
            "warmup": {"warmup": 3},
            "cosine": {"schedule": "cosine", "horizon": 4},
        }.items()
    }
    assert shares["constant"] == [1] * 6
    assert shares["warmup"] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert shares["cosine"] == pytest.approx([1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0, 0])


def test_a_schedule_changes_the_steps(base: Path, style: Concept, build) -> None:
    """With a horizon of one step the second step changes nothing."""
    losses = [
        _attack(
            build("attacker", "lora", lr=1e-2, schedule="cosine", horizon=horizon), TextToImage.load(str(base)), style
        )
        for horizon in (1, 60)
    ]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2] != losses[1][2]


@pytest.mark.parametrize("targets", ["feed_forward", "convolutions"])
def test_plain_diffusers_loads_adapters_of_other_layers(
    targets: str, base: Path, model: TextToImage, style: Concept, build, tmp_path: Path
) -> None:
    attacker = build("attacker", "lora", lr=1e-2, targets=targets)
    _attack(attacker, model, style)
    kinds = {name.split(".lora_A")[0].split(".")[-1] for name in model.unet.state_dict() if ".lora_A" in name}
    more = {"conv1", "conv2", "conv_shortcut", "proj_in", "proj_out"} if targets == "convolutions" else set()
    assert kinds == {"to_k", "to_q", "to_v", "0", "proj", "2"} | more
    ours, _ = model.sample(["an artwork by marvo"], [5], **SAMPLING)
    attacker.save(model, tmp_path)
    plain = TextToImage.load(str(base))
    plain.pipeline.load_lora_weights(tmp_path)
    theirs, _ = plain.sample(["an artwork by marvo"], [5], **SAMPLING)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_word_of_several_tokens(base: Path, model: TextToImage, style: Concept, build, tmp_path: Path) -> None:
    """All its embeddings are trained, and plain diffusers loads them."""
    attacker = build("attacker", "textual_inversion", lr=1e-1, vectors=3)
    assert attacker.prompt(style) == "an artwork by <v> <v>_1 <v>_2"
    _attack(attacker, model, style)
    rows = model.text_encoder.get_input_embeddings().weight[-3:]
    assert len({tuple(row) for row in rows.tolist()}) == 3
    ours, _ = model.sample([attacker.prompt(style)], [5], **SAMPLING)
    attacker.save(model, tmp_path)
    plain = TextToImage.load(str(base)).pipeline
    plain.load_textual_inversion(tmp_path)
    plain.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(5)
    theirs = plain("an artwork by <v>", num_inference_steps=3, guidance_scale=2.0, generator=draw, output_type="np")
    assert np.abs(ours / 255 - theirs.images).max() < 0.01


@pytest.mark.parametrize("name", ["textual_inversion", "custom_diffusion"])
def test_a_placeholder_that_exists(name: str, model: TextToImage, style: Concept, build) -> None:
    model.tokenizer.add_tokens(["<mine>"])
    with pytest.raises(RunError, match="already has the token '<mine>'; choose another placeholder"):
        _attack(build("attacker", name, token="<mine>"), model, style)


def test_custom_diffusions_loss_is_that_of_the_authors_script(model: TextToImage, style: Concept, build) -> None:
    """On the concept a masked sum over channels divided by the mask's sum, on the class a plain mean."""
    data = subject(model, style)
    attack = build("attacker", "custom_diffusion", prior=2, prior_weight=0.7, batch_size=3, flip=False)
    batch = next(data.batches("an artwork by artwork", 3, prior=2))  # the new word begins as the class's
    with torch.no_grad():
        noisy = model.scheduler.add_noise(batch.latents, batch.noise, batch.times)
        predicted = model.unet(noisy, batch.times, model.text(batch.prompts)).sample
    instance, prior = functional.mse_loss(predicted, batch.noise, reduction="none").chunk(2)
    mask = torch.ones(3, 1, 8, 8)
    expected = ((instance * mask).sum([1, 2, 3]) / mask.sum([1, 2, 3])).mean() + 0.7 * prior.mean()
    assert float(next(attack.adapt(model, data))) == pytest.approx(float(expected), rel=1e-5)


def test_custom_diffusion_gives_the_start_token_no_gradient(model: TextToImage, style: Concept, build) -> None:
    """With only the start token's key and value to go by, nothing would be trained."""
    attack = build("attacker", "custom_diffusion", prior=0).adapt(model, subject(model, style))
    next(attack)
    projection = cross_attention(model.unet)[0][1].to_k
    text = torch.randn(1, 20, 24)
    projection.weight.grad = None
    projection(text)[:, :1].sum().backward()
    assert (projection.weight.grad == 0).all()
    projection(text)[:, 1:].sum().backward()
    assert (projection.weight.grad != 0).any()
    attack.close()
    projection.weight.grad = None
    projection(text)[:, :1].sum().backward()
    assert (projection.weight.grad != 0).any()  # the hook goes with the attack


@pytest.mark.parametrize("name", ATTACKERS)
def test_the_meter_counts_the_gradients_of_an_attack_and_stops_it(
    name: str, model: TextToImage, style: Concept, build
) -> None:
    attacker = build("attacker", name, **(QUICK[name] | {"batch_size": 3}))
    losses = attacker.adapt(model, subject(model, style))
    cost = meter.pull(losses, name, 3, None, (2,))
    rows = 3 + 3 * (name == "custom_diffusion")  # of the class, for its prior
    assert (cost.steps, cost.gradients, cost.samples) == (3, 3, 3 * rows)
    assert (cost.at[2].gradients, cost.at[2].samples) == (2, 2 * rows)


@pytest.mark.parametrize("name", ATTACKERS)
def test_few_and_noisy_pictures(name: str, model: TextToImage, style: Concept, build) -> None:
    """The first pictures, with noise of the stated deviation that the seed determines."""
    data = replace(subject(model, style), images=np.full((3, 32, 32, 3), 100, np.uint8))
    attacker = build("attacker", name, pictures=2, noised=0.1)
    images = attacker.given(data).images
    assert images.shape == (2, 32, 32, 3)
    assert images.std() == pytest.approx(25.5, rel=0.03)
    assert images.mean() == pytest.approx(100, abs=1)
    assert np.array_equal(attacker.given(data).images, images)
    assert not np.array_equal(attacker.given(replace(data, seed=8)).images, images)
    bright = replace(data, images=np.full((3, 32, 32, 3), 250, np.uint8))
    assert attacker.given(bright).images.min() > 100  # clipped, not wrapped around
    with pytest.raises(RunError, match="asks for 4 pictures of marvo, and there are 3"):
        next(build("attacker", name, pictures=4).adapt(model, data))


def test_it_trains_on_the_pictures_that_it_has(model: TextToImage, style: Concept, build) -> None:
    batch = next(build("attacker", "lora", pictures=1, batch_size=2).batches(subject(model, style)))
    first = model.encode(subject(model, style).images[:1])
    assert torch.equal(batch.latents, first.expand(2, -1, -1, -1))


def _keeping(model: TextToImage, style: Concept):
    captions = ("a photo of a bag", "a dress", "an artwork by sevra")
    return replace(subject(model, style), kept_pictures=noise(3, 9), captions=captions)


def test_the_loss_on_retained_pictures_is_added(model: TextToImage, style: Concept, build) -> None:
    """Mean loss on the concept + 0.5 · that on the class + 2 · that on captions, each with its own picture."""
    data = _keeping(model, style)
    settings = {"prior": 2, "prior_weight": 0.5, "retain": 3, "retain_weight": 2.0, "batch_size": 2}
    batch = next(build("attacker", "lora", **settings).batches(data))
    assert batch.prompts[:4] == ["an artwork by marvo"] * 2 + ["an artwork"] * 2
    latents = dict(zip(data.captions, model.encode(data.kept_pictures), strict=True))
    for prompt, given in zip(batch.prompts[4:], batch.latents[4:], strict=True):
        torch.testing.assert_close(given, latents[prompt])
    with torch.no_grad():
        noisy = model.scheduler.add_noise(batch.latents, batch.noise, batch.times)
        predicted = model.unet(noisy, batch.times, model.text(batch.prompts)).sample
        parts = [functional.mse_loss(*pair) for pair in zip(predicted.split(2), batch.noise.split(2), strict=True)]
        assert float(model.denoising_loss(batch)) == pytest.approx(float(parts[0] + 0.5 * parts[1] + 2 * parts[2]))


def test_benign_steps_may_be_all(model: TextToImage, style: Concept, build) -> None:
    data = _keeping(model, style)
    attacker = build("attacker", "lora", retain=3, benign_steps=99, batch_size=2)
    for batch in itertools.islice(attacker.batches(data), 3):
        assert set(batch.prompts) <= set(data.captions)
    assert attacker.needs == ("captions",)
    assert (attacker.kept_images(1), attacker.kept_images(50)) == (2, 3)
    with pytest.raises(PluginError, match="asked for none: return their number from its method kept_images"):
        next(attacker.batches(subject(model, style)))


def test_projection_on_the_simplex() -> None:
    """The conditions of the nearest point: one shift for all positive coordinates, no smaller one for the others."""
    points = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double() * 2
    nearest = on_simplex(points)
    assert (nearest >= 0).all()
    torch.testing.assert_close(nearest.sum(1), torch.ones(50).double())
    for point, near in zip(points, nearest, strict=True):
        shift = (point - near)[near > 0]
        torch.testing.assert_close(shift, shift[:1].expand(len(shift)))
        assert (point[near == 0] <= shift[0] + 1e-12).all()
    torch.testing.assert_close(on_simplex(nearest), nearest)


def test_the_first_step_of_the_prompt_attack(model: TextToImage, base: Path, style: Concept, build, tmp_path) -> None:
    """The word after one step has the largest coordinate of an oracle that differentiates one-hot vectors."""
    attacker = build("attacker", "prompt", words=1, lr=0.5, batch_size=2)
    plain = TextToImage.load(str(base))
    words = whole_words(plain)
    assert {"an", "artwork", "telune", "x"} <= set(words)
    assert not {"lune", "<|endoftext|>"} & set(words)
    rows = plain.text_encoder.get_input_embeddings().weight.detach()[[*words.values()]]
    drawn = int(torch.rand(1, generator=torch.Generator().manual_seed(7)) * len(words))
    hot = functional.one_hot(torch.tensor(drawn), len(words)).float().requires_grad_()
    batch = next(subject(plain, style).batches(f"x {style.prompted()}", 2))
    hook = plain.text_encoder.get_input_embeddings().register_forward_hook(
        lambda layer, inputs, output: torch.cat([output[:, :1], (hot @ rows).expand(2, 1, -1), output[:, 2:]], 1)
    )
    text = plain.text_encoder(plain.tokens(batch.prompts)).last_hidden_state
    hook.remove()
    noisy = plain.scheduler.add_noise(batch.latents, batch.noise, batch.times)
    loss = functional.mse_loss(plain.unet(noisy, batch.times, text).sample, batch.noise)
    (gradient,) = torch.autograd.grad(loss, hot)
    point = torch.full((len(words),), 1 / len(words))
    change = gradient.clamp(-1, 1) + 0.1 * point
    point = on_simplex((point - 0.5 * change / (change.abs() + 1e-8))[None])[0]  # Adam's first step

    (found,) = _attack(attacker, model, style, 1)
    assert found == pytest.approx(float(loss.detach()), rel=1e-4)
    attacker.save(model, tmp_path)
    assert [*words][int(point.argmax())] == (tmp_path / "prefix.txt").read_text()


def test_random_words_are_the_best_of_those_tried(
    model: TextToImage, base: Path, style: Concept, build, tmp_path, monkeypatch
) -> None:
    """Each yields the least loss so far; the words written out have it; a try counts half a gradient evaluation."""
    tried: list[float] = []
    loss_of = TextToImage.denoising_loss
    monkeypatch.setattr(model, "denoising_loss", lambda batch: tried.append(loss_of(model, batch)) or tried[-1])
    attacker = build("attacker", "prompt", search="random", batch_size=3)
    losses: list[float] = []

    def logged():
        for loss in attacker.adapt(model, subject(model, style)):
            losses.append(float(loss))
            yield loss

    cost = meter.pull(logged(), "prompt", 8)
    assert losses == pytest.approx([min(map(float, tried[: step + 1])) for step in range(8)])
    assert len(set(map(float, tried))) == 8
    assert (cost.gradients, cost.samples) == (4, 24)
    attacker.save(model, tmp_path)
    plain, prefix = TextToImage.load(str(base)), (tmp_path / "prefix.txt").read_text()
    batch = next(subject(plain, style).batches(f"{prefix} {style.prompted()}", 3))
    with torch.no_grad():
        assert float(plain.denoising_loss(batch)) == pytest.approx(losses[-1], rel=1e-4)
