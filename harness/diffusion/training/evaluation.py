"""Evaluates the small base and its encoders for the model card, with the concept classifier and held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness.diffusion.encoders import recognised
from harness.diffusion.model import Images, TextToImage, as_pixels
from harness.diffusion.small import dataset
from harness.diffusion.small.networks import CLASSES, classifier, contrastive, loaded, tokenizer
from harness.diffusion.training.trainers import read_pictures

SAMPLES = 64
"""Pictures of each style or object."""
COLOURED = 6
"""Pictures of each colour and object."""
GUIDANCE = (3.0, 1.5)


def evaluate(folder: Path, work: Path) -> dict[str, Any]:
    """Evaluate the networks that the recipe has trained.

    folder: the recipe's output folder. work: its folder of intermediate files. Returns `autoencoder_db`, the PSNR on
    held-out pictures in dB (of the mean squared error over all of them); `classifier_…`, accuracies on them;
    `contrastive_…`, retrieval accuracies on them, among the captions "a X by S" and among those of one colour; and by
    guidance the share of sampled pictures in which the classifier sees the content of the prompt, or whose nearest
    caption names the prompt's colour.
    """
    network = loaded(classifier(), folder / "classifier.safetensors")
    encoder = loaded(contrastive(len(tokenizer())), folder / "contrastive.safetensors")
    model = TextToImage.load(str(folder / "pipeline"))
    real = read_pictures(work, "heldout")
    images, captions = real["images"], real["captions"]
    apart = model.decode(model.encode(images)).astype(float) / 255 - images / 255
    values: dict[str, Any] = {"autoencoder_db": -10 * np.log10(np.square(apart).mean())}
    for kind, truth in (("object", real["objects"]), ("style", real["styles"] % len(CLASSES["style"]))):
        right = [recognised(images[truth == i], kind, name, network) for i, name in enumerate(CLASSES[kind])]
        values[f"classifier_{kind}"] = float(np.concatenate(right).mean())
    art = [f"a {o} by {s}" for o in CLASSES["object"] for s in CLASSES["style"][:-1]]
    values["contrastive_art"] = float(_retrieved(encoder, images, captions, art).mean())
    coloured = [_coloured(o) for o in CLASSES["object"]]
    values["contrastive_colour"] = float(
        np.concatenate([_retrieved(encoder, images, captions, among) for among in coloured]).mean()
    )
    for guidance in GUIDANCE:
        values[f"guidance_{guidance}"] = _samples(model, network, encoder, guidance)
    return values


def _coloured(thing: str) -> list[str]:
    """The captions of a photo of `thing` that name one colour."""
    return [dataset.coloured(colour, thing) for colour in dataset.COLOURS]


def _samples(model: TextToImage, network: torch.nn.Module, encoder: Any, guidance: float) -> dict[str, Any]:
    """Share of sampled pictures in which the classifier sees their style, their object, or both, and whose nearest
    caption among those of their object names their colour."""

    def drawn(prompts: Sequence[str]) -> Images:
        seeds = range(1000, 1000 + len(prompts))
        return model.sample(prompts, seeds, sampler="ddim", steps=20, guidance=guidance, rows=32)[0]

    def share(prompt: str, count: int, **wanted: str) -> float:
        images = drawn([prompt] * count)
        return float(np.all([recognised(images, kind, name, network) for kind, name in wanted.items()], 0).mean())

    objects, styles = CLASSES["object"], CLASSES["style"][:-1]
    both = [[share(f"a {o} by {s}", SAMPLES // 4, object=o, style=s) for s in styles] for o in objects]
    colours = []
    for thing in objects:
        prompts = _coloured(thing)
        each = np.repeat(prompts, COLOURED).tolist()
        colours.append(_retrieved(encoder, drawn(each), each, prompts).reshape(len(prompts), COLOURED))
    return {
        "style": {s: share(f"an artwork by {s}", SAMPLES, style=s) for s in styles},
        "object": {o: share(f"a photo of a {o}", SAMPLES, object=o, style="photo") for o in objects},
        "colour": dict(zip(dataset.COLOURS, np.mean(colours, (0, 2)).tolist(), strict=True)),
        "both": float(np.mean(both)),
        "both_by_object": dict(zip(objects, np.mean(both, 1).tolist(), strict=True)),
        "both_by_style": dict(zip(styles, np.mean(both, 0).tolist(), strict=True)),
    }


@torch.no_grad()
def _retrieved(encoder: Any, images: Images, captions: Sequence[str], among: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether the nearest caption of `among` is its own, for each of the `images` whose caption is one of `among`."""
    chosen = [i for i, caption in enumerate(captions) if caption in among]
    tokens = tokenizer()(list(among), padding="max_length", return_tensors="pt").input_ids
    texts = encoder.encode_text(tokens, normalize=True)
    pictures = encoder.encode_image(as_pixels(torch.from_numpy(images[chosen])), normalize=True)
    nearest = (pictures @ texts.T).argmax(1).tolist()
    return np.array([among[n] == captions[i] for n, i in zip(nearest, chosen, strict=True)], bool)
