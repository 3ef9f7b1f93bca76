"""The defenses: what they change, what they ascend, and what they refuse."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from defenses._merge import Merge
from harness import meter
from harness.diffusion import Concept, Targets, TextToImage, data, token_rows, word_rows
from harness.errors import RunError, UsageError
from harness.registry import Registry
from tests.diffusion.helpers import noise, subject
from tests.diffusion.reference import CAPTIONS, as_double, double, targets

QUICK = {"steps": 3, "lr": 1e-3, "batch_size": 2, "prior": "captions"}
UNROLLED = {"joint": 0.01, "compose": 0.1, "mima": 0.1}
DEFENSES = ["ascent", *UNROLLED, "imma"]


@pytest.fixture
def exact(base: Path, monkeypatch: pytest.MonkeyPatch):
    """Loads a base model in float64, with draws in float64: Adam enlarges rounding."""
    noised = data._noised
    monkeypatch.setattr(data, "_noised", lambda *batch: as_double(noised(*batch)))
    return lambda name=str(base): double(TextToImage.load(name))


def _build(build, name: str, **settings):
    inner = {"inner_lr": UNROLLED[name]} if name in UNROLLED else {}
    return build("defense", name, **(QUICK | inner | settings))


def _of(model: TextToImage, name: str) -> Targets:
    return targets(model, ("marvo",) if name == "imma" else ("marvo", "telune"))


def _weights(model: TextToImage) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.unet.state_dict().items()}


@pytest.mark.parametrize("name", DEFENSES)
def test_only_its_own_weights_change(name: str, model: TextToImage, build) -> None:
    before, text = _weights(model), {n: v.clone() for n, v in model.text_encoder.state_dict().items()}
    cost = meter.pull(_build(build, name).immunize(model, _of(model, name)), name)
    assert cost.steps == 3
    sets = {"ascent": "cross_attention", "mima": "cross_attention", "joint": "attention", "imma": "attention"}
    assert set(model.changed(before)) == set(model.weights(sets.get(name, "keys_values")))
    assert all(torch.equal(value, text[key]) for key, value in model.text_encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "settings", "gradients", "samples"),
    [
        ("ascent", {}, 1 + 1, 4 + 2),
        ("ascent", {"prior": "none"}, 1, 4),
        ("joint", {"inner_steps": 2}, 2 + 1 + 1, 2 * 4 + 4 + 2),
        ("mima", {"inner_steps": 2}, 2 * 2 + 1 + 1, 2 * 4 + 4 + 2),
        ("mima", {"inner_weights": "unet"}, 2 + 1 + 1, 4 + 4 + 2),  # a pass for each concept
        ("mima", {"mode": "released", "inner_lr": 1e-4}, 2 * 2 + 1 + 1, 2 * 4 + 4 + 2),
        ("compose", {}, 2 + 1 + 1, 4 + 4 + 2),
        ("compose", {"mode": "separate"}, 1 + 1 + 1, 2 + 2 + 2),
        ("imma", {}, 1 + 1 + 1, 4 + 2 + 2),
    ],
)
def test_gradients_are_counted(name: str, settings, gradients: int, samples: int, model: TextToImage, build) -> None:
    """Of each of two steps, with batches of two: those of the concepts' descents, the ascent and the prior."""
    defense = _build(build, name, steps=2, **settings)
    cost = meter.pull(defense.immunize(model, _of(model, name)), name)
    assert (cost.gradients, cost.samples) == (2 * gradients, 2 * samples)


@pytest.mark.parametrize("name", DEFENSES)
def test_the_same_seed_gives_the_same_weights(name: str, base: Path, build) -> None:
    found = []
    for _ in range(2):
        model = TextToImage.load(str(base))
        torch.manual_seed(0)
        meter.pull(_build(build, name).immunize(model, _of(model, name)), name)
        found.append(_weights(model))
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


@pytest.mark.parametrize("name", DEFENSES)
def test_each_defense_raises_the_loss_that_it_ascends(name: str, model: TextToImage, build) -> None:
    """Without a prior. Ascent's loss is the targets'; the others' is that of an attacked or merged model."""
    losses = _build(build, name, steps=20, batch_size=8, prior="none").immunize(model, _of(model, name))
    first, last = torch.tensor([float(loss) for loss in losses]).split([15, 5])
    assert last.mean() > first[:5].mean()


@pytest.mark.parametrize("trained", ["cross_attention", "unet"])
def test_ascent_is_the_plain_loop(trained: str, exact, build) -> None:
    """AdamW on minus the targets' loss plus the weighted loss of what is kept, the norm at most 1. Gradients of
    convolutions may have other strides than their weights."""
    ours, plain = exact(), exact()
    meter.pull(_build(build, "ascent", prior_weight=3.0, weights=trained).immunize(ours, targets(ours)), "ascent")
    of = targets(plain)
    weights = plain.unfreeze(list(plain.weights(trained).values()))
    optimiser = torch.optim.AdamW(weights, lr=1e-3)
    drawn = [given.batches(given.concept.prompted(), 2) for given in of]
    kept = of.kept(2)
    for _ in range(3):
        optimiser.zero_grad()
        harm = sum(plain.denoising_loss(next(batches)) for batches in drawn) / 2
        (3.0 * plain.denoising_loss(next(kept)) - harm).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    assert all(torch.allclose(v, _weights(plain)[k], atol=1e-9) for k, v in _weights(ours).items())


def test_released_and_paper_give_different_weights(base: Path, build) -> None:
    """From the same seed."""
    found = {}
    for mode in ("paper", "paper-current", "released"):
        model = TextToImage.load(str(base))
        meter.pull(_build(build, "mima", mode=mode).immunize(model, targets(model)), mode)
        found[mode] = _weights(model)
    for mode, other in (("paper", "released"), ("paper", "paper-current"), ("paper-current", "released")):
        assert any(not torch.allclose(found[mode][k], found[other][k], atol=1e-6) for k in found[mode]), (mode, other)


def test_released_is_the_authors_alternation(exact, build) -> None:
    """Their training loop, written out with torch's optimisers on the small base: (1) each concept's loss plus the
    loss to retain; keys and values by one step of descent, then merged; everything else by AdamW on the mean gradient;
    both stay in the weights. (2) One step of ascent on the cross-attention."""
    settings = {
        "mode": "released",
        "lr": 3e-3,
        "inner_lr": 1e-3,
        "steps": 2,
        "prior_weight": 2.0,
        "captions": 4,
        "ridge": 1e-3,
    }
    side = TextToImage.load("small").pipeline.vae.config.sample_size
    ours = exact("small")
    meter.pull(_build(build, "mima", **settings).immunize(ours, targets(ours, side=side)), "mima")

    plain = exact("small")
    of, named = targets(plain, side=side), dict(plain.unet.named_parameters())
    outer = {name: weight for name, weight in named.items() if ".attn2." in name}
    merged = {name: weight for name, weight in outer.items() if ".to_k." in name or ".to_v." in name}
    inner = {name: weight for name, weight in named.items() if name not in merged}
    plain.unet.requires_grad_(True)
    below, above = torch.optim.AdamW(inner.values(), lr=1e-3), torch.optim.AdamW(outer.values(), lr=3e-3)
    drawn = [given.batches(given.concept.prompted(), 2) for given in of]
    retained = [replace(of, seed=of.seed + 1 + n).kept(2) for n in range(2)]
    retained_above, draw = of.kept(2), random.Random(of.seed)
    # Both concepts have the class prompt "an artwork", so the rows are the targets' own.
    rows = [word_rows(plain, given.concept.prompted(), given.concept.name) for given in of]
    for _ in range(2):
        captions = torch.cat([token_rows(plain, caption) for caption in draw.sample(of.captions, 4)])
        layer = Merge.factor(rows, captions, 1e-3)
        models, mean = [], {name: torch.zeros_like(weight) for name, weight in inner.items()}
        for batches, kept in zip(drawn, retained, strict=True):
            loss = plain.denoising_loss(next(batches)) + 2.0 * plain.denoising_loss(next(kept))
            gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
            models.append({name: weight.detach() - 1e-3 * gradients[name] for name, weight in merged.items()})
            mean = {name: mean[name] + gradients[name] / 2 for name in inner}
        for name, weight in inner.items():
            weight.grad = mean[name]
        below.step()
        for name, weight in merged.items():
            weight.data.copy_(layer(weight.detach(), torch.stack([one[name] for one in models])))
        plain.unet.zero_grad()
        harm = sum(plain.denoising_loss(next(batches)) for batches in drawn) / 2
        (2.0 * plain.denoising_loss(next(retained_above)) - harm).backward()
        torch.nn.utils.clip_grad_norm_(outer.values(), 1.0)
        above.step()
        plain.unet.zero_grad()
    start, theirs = _weights(double(TextToImage.load("small"))), _weights(plain)
    for name, weight in _weights(ours).items():
        assert not torch.equal(weight, start[name])  # the whole U-Net moves
        assert (weight - theirs[name]).abs().max() < 1e-5 * (theirs[name] - start[name]).abs().max(), name


def test_released_merges_by_class_where_each_concept_has_its_own(
    model: TextToImage, thing: Concept, build, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = thing.model_copy(update={"name": "yours", "class_word": "boot", "class_prompt": "a photo of a boot"})
    of = Targets(model, (subject(model, thing), subject(model, other)), ("mine", "yours"), CAPTIONS, noise(5), 5)
    settings = {"mode": "released", "prior": "class", "prior_images": 2, "inner_steps": 2, "steps": 1}
    defense = _build(build, "mima", **settings)
    own, asked = sys.modules[type(defense).__module__].Merge, []  # other tests may have read the modules anew
    layer = own.layer
    monkeypatch.setattr(
        own, "layer", lambda model, prompts, *rest: asked.append(prompts) or layer(model, prompts, *rest)
    )
    meter.pull(defense.immunize(model, of), "mima")
    assert asked == [[("a photo of a bag", "bag"), ("a photo of a boot", "boot")]] * 2  # one for each descent


def test_released_unrolls_nothing(build) -> None:
    with pytest.raises(UsageError, match="the mode released unrolls no step"):
        build("defense", "mima", mode="released", first_order=True)


def test_with_the_weights_before_it_a_merge_leaves_free_directions(model: TextToImage, build) -> None:
    """With W^p fixed the keys' gradient lies in the concepts' rows; with W^p of now it has full rank."""
    ranks = {}
    for mode in ("paper", "paper-current"):
        defense = _build(build, "mima", mode=mode, first_order=True)
        of = targets(model)
        keys = next(weight for name, weight in model.weights("keys_values").items() if "to_k" in name)
        model.unfreeze(list(model.weights("cross_attention").values()))
        (gradient,) = torch.autograd.grad(next(defense.harmful_losses(model, of)), keys)
        ranks[mode] = int(torch.linalg.matrix_rank(gradient.double(), rtol=1e-5))
    assert ranks["paper"] <= 4  # two rows for each of two concepts
    assert ranks["paper-current"] > ranks["paper"]


def test_cp_is_mima_on_keys_and_values(base: Path, build) -> None:
    """Whose gradient is that of a plain unroll (`test_unroll`)."""
    found = []
    for name, settings in (("compose", {}), ("mima", {"weights": "keys_values"})):
        model = TextToImage.load(str(base))
        meter.pull(_build(build, name, inner_steps=2, **settings).immunize(model, targets(model)), name)
        found.append(_weights(model))
    assert all(torch.equal(weight, found[1][name]) for name, weight in found[0].items())


def test_cp_separate_merges_models_that_were_immunized_alone(base: Path, build) -> None:
    model = TextToImage.load(str(base))
    of = targets(model)
    before = {n: w.detach().clone() for n, w in model.weights("keys_values").items()}
    cost = meter.pull(_build(build, "compose", mode="separate").immunize(model, of), "compose")
    assert cost.steps == 3  # of all concepts

    alone = []
    for place, steps in enumerate((2, 1)):
        single = TextToImage.load(str(base))
        given = targets(single)
        # JT of one concept, keys and values only, is what CP does with it.
        settings = {"weights": "keys_values", "inner_weights": "keys_values", "inner_lr": 0.1, "steps": steps}
        meter.pull(_build(build, "joint", **settings).immunize(single, given.only(place)), "alone")
        alone.append({n: w.detach() for n, w in single.weights("keys_values").items()})
    prompts = [(given.concept.prompted(), given.concept.name) for given in of]
    layer = Merge.layer(model, prompts, CAPTIONS, 1e-4)
    for name, weight in model.weights("keys_values").items():
        merged = layer(before[name], torch.stack([of[name] for of in alone]))
        assert torch.allclose(weight, merged, atol=1e-4)  # the layer amplifies rounding
        assert not torch.allclose(weight, before[name], atol=1e-3)
    with pytest.raises(RunError, match="1 steps cannot be shared out among 2 concepts"):
        meter.pull(_build(build, "compose", mode="separate", steps=1).immunize(model, of), "compose")


def test_ascent_stops_at_a_loss(model: TextToImage, base: Path, build) -> None:
    losses = [float(of) for of in _build(build, "ascent", steps=5).immunize(model, targets(model))]
    assert len(losses) == 5
    first = next(i for i, of in enumerate(losses, 1) if of > losses[0])  # a step that passes what the first had
    model = TextToImage.load(str(base))
    again = _build(build, "ascent", steps=5, stop_at=(losses[0] + losses[first - 1]) / 2)
    assert meter.pull(again.immunize(model, targets(model)), "ascent").steps == first


@pytest.mark.parametrize("prior", ["class", "captions"])
def test_a_prior_limits_the_rise_of_its_loss(prior: str, base: Path, build) -> None:
    """The loss on it rises less than without."""
    risen = {}
    for weight in ("none", prior):
        model = TextToImage.load(str(base))
        of = targets(model)
        kept = of.kept(16) if prior == "captions" else of.classes(4, 16)
        fixed = [next(kept) for _ in range(2)]
        with torch.no_grad():
            before = sum(float(model.denoising_loss(batch)) for batch in fixed)
        settings = {"steps": 25, "prior": weight, "prior_images": 4} | (
            {} if weight == "none" else {"prior_weight": 10}
        )
        meter.pull(_build(build, "ascent", **settings).immunize(model, of), "ascent")
        with torch.no_grad():
            risen[weight] = sum(float(model.denoising_loss(batch)) for batch in fixed) - before
    assert risen[prior] < risen["none"]


def test_missing_captions_are_refused(model: TextToImage, build) -> None:
    of = targets(model)
    bare = Targets(model, of.concepts, of.group, (), noise(0), 5)
    with pytest.raises(RunError, match="no captions are left to retain; add `captions: FILE`"):
        next(_build(build, "ascent").immunize(model, bare))
    with pytest.raises(RunError, match="a merge needs captions; add `captions: FILE`"):
        next(_build(build, "mima", prior="class", prior_images=2).immunize(model, bare))


def test_subjects_go_by_a_rare_word_each(model: TextToImage, thing: Concept, build) -> None:
    other = thing.model_copy(update={"name": "yours", "class_word": "boot"})
    of = Targets(model, (subject(model, thing), subject(model, other)), ("mine", "yours"), CAPTIONS, noise(5), 5)
    defense = _build(build, "mima", words=("zwx", "olq"))
    both = [("a photo of a zwx bag", "zwx bag"), ("a photo of a olq boot", "olq boot")]
    assert defense.prompts(of) == both
    assert defense.prompts(of.only(1)) == both[1:]
    with pytest.raises(RunError, match="2 subjects and 1 rare words for them"):
        _build(build, "mima", words=("zwx",)).prompts(of)


def test_imma_is_for_one_concept_and_one_attacker(model: TextToImage, build) -> None:
    with pytest.raises(RunError, match="IMMA immunizes against one concept; this group has 2"):
        next(_build(build, "imma").immunize(model, targets(model)))
    with pytest.raises(UsageError, match="unknown attacker 'lroa'; did you mean lora"):
        build("defense", "imma", attacker="lroa")


@pytest.mark.parametrize("attacker", ["lora", "dreambooth", "textual_inversion", "custom_diffusion"])
def test_imma_below_any_attacker(attacker: str, model: TextToImage, build) -> None:
    """The attacker works on a model of its own; what is released has no trace of it."""
    before, vocabulary = _weights(model), len(model.tokenizer)
    settings = {"prior": 2} if attacker == "custom_diffusion" else {}
    defense = _build(build, "imma", attacker=attacker, settings=settings)
    meter.pull(defense.immunize(model, targets(model, ("marvo",))), "imma")
    assert set(_weights(model)) == set(before)
    assert set(model.changed(before)) == set(model.weights("attention"))
    assert len(model.tokenizer) == vocabulary


def test_imma_alternates(exact, build) -> None:
    """Written out over DreamBooth: it takes a step, then follows the ascent that was made meanwhile; the ascent goes by
    the attacked model's gradients."""
    settings = {"attacker": "dreambooth", "settings": {"lr": 0.01, "batch_size": 2}, "prior": "none"}
    ours, plain, attacked = exact(), exact(), exact()
    meter.pull(_build(build, "imma", **settings).immunize(ours, targets(ours, ("marvo",))), "imma")

    given, concept = targets(attacked, ("marvo",)).concepts[0], "an artwork by marvo"
    theirs, fresh = given.batches(concept, 2), replace(given, seed=given.seed + 1).batches(concept, 2)
    every = attacked.unfreeze(list(attacked.unet.parameters()))
    below = torch.optim.AdamW(every, lr=0.01)
    trained, copies = plain.weights("attention"), attacked.weights("attention")
    above = torch.optim.AdamW(plain.unfreeze(list(trained.values())), lr=QUICK["lr"])
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    for _ in range(QUICK["steps"]):
        below.zero_grad()
        attacked.denoising_loss(next(theirs)).backward()
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        below.step()
        for name, weight in trained.items():
            copies[name].data += weight.detach() - before[name]
            before[name] = weight.detach().clone()
        gradients = torch.autograd.grad(-attacked.denoising_loss(next(fresh)), list(copies.values()))
        for weight, gradient in zip(trained.values(), gradients, strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        above.step()
    changed = _weights(plain)
    assert all(torch.allclose(weight, changed[name], atol=1e-9) for name, weight in _weights(ours).items())


def test_immas_identity_includes_its_inner_attacker(tmp_path: Path) -> None:
    """Another attacker below, or other settings of it, is another IMMA, though no field of the row names its code."""
    entry = Registry().get("defense", "imma")
    sources = {entry.spec(params, "test").source for params in ({}, {"attacker": "dreambooth"}, {"preset": "small"})}
    assert len(sources) == 3
    assert entry.spec({}, "test").source != entry.load().source_digest()
    plain = Registry().get("defense", "mima")
    assert plain.spec({}, "test").source == plain.load().source_digest()


def test_condition_and_amplification_of_merges_are_recorded(model: TextToImage, build) -> None:
    of = targets(model)
    meter.pull(_build(build, "mima").immunize(model, of), "mima")
    assert of.notes["condition of captions"] > 1
    assert of.notes["amplification"] > 0


@pytest.mark.parametrize("name", DEFENSES)
def test_half_precision(name: str, base: Path, build) -> None:
    """On a base in fp16 what is trained is fp32, and the weights stay finite."""
    model = TextToImage.load(str(base), "fp16")
    meter.pull(_build(build, name).immunize(model, _of(model, name)), name)
    assert all(weight.isfinite().all() for weight in model.unet.parameters())


def test_mima_immunizes_ten_concepts(model: TextToImage, build) -> None:
    of = targets(model, ("marvo", "telune", "obrick", "sevra", "kalindo", "pirou", "dantrel", "wexley", "bag", "boot"))
    cost = meter.pull(_build(build, "mima", steps=1).immunize(model, of), "mima")
    assert cost.steps == 1
    assert of.notes["amplification"] > 1
