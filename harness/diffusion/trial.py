"""Tiny tasks for the conformance kit, on the small base."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from harness.diffusion import encoders
from harness.diffusion.concepts import Concept
from harness.diffusion.data import ConceptData, Targets
from harness.diffusion.model import Images, TextToImage
from harness.diffusion.plugin import DiffusionAttacker, DiffusionDefense
from harness.diffusion.views import AttackedPictures, ConceptAttack, ReleasedData, View
from harness.kit.trial import Trial

SAMPLING: dict[str, Any] = {"sampler": "ddim", "steps": 10, "guidance": 2.0}
THINGS = ("boot", "dress", "pullover", "zero", "four", "seven")
CAPTIONS = tuple(f"a photo of a {thing}" for thing in THINGS)
ENCODER = "classifier"
STEPS = 30
"""Steps of an attack."""


def trials(kind: str, seed: int) -> Sequence[Trial]:
    """The trials for plugins of a kind; see `Track.trials`."""
    if kind == "attacker":
        return [_attack(seed)]
    return [_release(kind, seed, concepts=2), _release(kind, seed, concepts=1)]


@cache
def _base() -> TextToImage:
    return TextToImage.load("small")


@cache
def _pictures(prompt: str, count: int) -> Images:
    return _base().sample([prompt] * count, range(count), **SAMPLING)[0]


def _concepts(model: TextToImage, seed: int, count: int) -> tuple[ConceptData, ...]:
    """Concepts for which the base model has no words although it can draw them: its own pictures of things."""
    names = list({"qorvin": "sandal", "tezzal": "trouser"}.items())[:count]
    return tuple(_concept(model, name, thing, seed + i) for i, (name, thing) in enumerate(names))


def _concept(model: TextToImage, name: str, thing: str, seed: int) -> ConceptData:
    concept = Concept(
        name=name, kind="style", prompt="a photo of a {}", class_prompt="a photo of a bag", class_word="bag"
    )

    pictures = _pictures(f"a photo of a {thing}", 6)
    return ConceptData(concept, pictures, model, seed, pictures[:0])


def _with_pictures(data: ConceptData, plugin: Any, *budget: int) -> ConceptData:
    """The data with the class pictures and the kept pictures that `plugin` asks for, but few of them. budget: an
    attacker's steps."""
    count = plugin.class_images(*budget) if isinstance(plugin, DiffusionDefense | DiffusionAttacker) else 0
    data = replace(data, class_pictures=_pictures(data.concept.class_prompt, 6)[:count])
    if isinstance(plugin, DiffusionAttacker) and plugin.kept_images(*budget):
        data = replace(data, kept_pictures=_captioned(), captions=CAPTIONS)
    return data


def _captioned() -> Images:
    """A picture of each caption."""
    return np.concatenate([_pictures(caption, 1) for caption in CAPTIONS])


def _modules(model: TextToImage) -> dict[str, torch.nn.Module]:
    return {"unet": model.unet, **model.text_encoders, "vae": model.vae}


def _parameters(model: TextToImage) -> dict[str, torch.nn.Parameter]:
    """All parameters by name, without the names of wrapping adapters."""
    return {
        f"{part}.{name}".replace(".base_layer", ""): weight
        for part, module in _modules(model).items()
        for name, weight in module.named_parameters()
    }


def _loss(model: TextToImage, data: ConceptData, prompt: str) -> float:
    """The denoising loss of a concept, with the same noise in every call."""
    draws = replace(data, seed=10**6).batches(prompt, 128)
    with torch.no_grad():
        return float(model.denoising_loss(next(draws)))


def _prompt(model: TextToImage, concept: Concept, plugin: DiffusionAttacker) -> str:
    """The attacker's prompt, or the concept's own where it is too long, as one with new words may be before the
    attack, when the tokenizer splits them."""
    prompt = plugin.prompt(concept)
    fits = len(model.tokenizer(prompt).input_ids) <= model.tokenizer.model_max_length
    return prompt if fits else concept.prompted()


def _attack(seed: int) -> Trial:
    """A model to attack, with a concept to learn."""
    model = _base().copy()
    (data,) = _concepts(model, seed, 1)

    def allowed(plugin: Any) -> Collection[str] | None:
        """The weights that the attacker's method `weights` returns or changes; None if it has no such method."""
        if not callable(getattr(plugin, "weights", None)):
            return None
        other = model.copy()
        before = _parameters(model)
        with data.drawing():
            trained = {id(weight) for weight in plugin.weights(other)}
        after = _parameters(other)
        changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
        return changed | {name for name, weight in after.items() if id(weight) in trained}

    return Trial(
        modules=_modules(model),
        start=lambda plugin: plugin.generator(model, _with_pictures(data, plugin, STEPS)),
        loss=lambda plugin: _loss(model, data, _prompt(model, data.concept, plugin)),
        steps=STEPS,
        broken=0.9,
        allowed=allowed,
    )


def _release(kind: str, seed: int, concepts: int) -> Trial:
    """A model to immunize or to measure, with concepts that it must not learn."""
    model = _base().copy()
    given = _concepts(model, seed, concepts)
    pictures = _captioned()
    model.text(CAPTIONS)  # the model caches these embeddings, which is no effect of a plugin
    targets = Targets(model, given, tuple(data.concept.name for data in given), CAPTIONS, pictures, seed=5)

    def defend(plugin: Any) -> Iterator[Any]:
        concepts = tuple(_with_pictures(data, plugin) for data in given)
        return plugin.generator(model, replace(targets, concepts=concepts))

    start = _start_metric(model, targets) if kind == "metric" else defend
    return Trial(
        modules=_modules(model),
        start=start,
        loss=lambda plugin: _loss(model, given[0], given[0].concept.prompted()),
        steps=8,
        # the plugin's field `weights`, else the whole U-Net, because the harness saves no other weights
        allowed=lambda plugin: {f"unet.{name}" for name in model.weights(getattr(plugin, "weights", "unet"))},
    )


def _start_metric(model: TextToImage, targets: Targets) -> Callable[[Any], Iterator[Any]]:
    """Starts a metric on the released model or on attacked pictures."""
    used = {ENCODER: encoders.encoder(ENCODER)}
    boots, dresses = (_view(thing, 2) for thing in ("boot", "dress"))
    views: dict[str, Any] = {"drawn": boots, "erased": dresses, "benign": boots, "reachable": [boots[0]]}
    views["compositions"] = replace(boots, embeddings={})
    data = ReleasedData(**vars(targets), **views, bystanders={"train": (boots, dresses)}, encoders=used)
    attacks = [ConceptAttack(given.concept, boots, dresses, boots[0]) for given in targets]
    pictures = AttackedPictures((1, 2), attacks, attacks[:1])

    def start(plugin: Any) -> Iterator[Any]:
        return plugin.generator(pictures, used) if plugin.measures == "attacked" else plugin.generator(model, data)

    return start


def _view(thing: str, rows: int) -> View:
    """Pictures (rows, 2, …) of a thing, with their embeddings."""
    images = _pictures(f"a photo of a {thing}", 2 * rows)
    finite = torch.ones(rows, 2, dtype=torch.bool)
    embed = encoders.encoder(ENCODER).embed
    assert embed is not None
    embeddings = {ENCODER: embed(images).unflatten(0, (rows, 2))}
    recognised = torch.from_numpy(encoders.recognised(images, "object", thing)).unflatten(0, (rows, 2))
    detected = {"classifier": recognised.expand(3, rows, 2)}  # up to two targets and a benign concept
    return View(images.reshape(rows, 2, *images.shape[1:]), finite, embeddings, recognised, detected=detected)
