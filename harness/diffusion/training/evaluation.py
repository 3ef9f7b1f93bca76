"""Evaluates the small base and its encoders for the model card, with the concept classifier and held-out pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.diffusion.encoders import recognised
from harness.diffusion.model import TextToImage, as_pixels
from harness.diffusion.small.networks import CLASSES, classifier, contrastive, loaded, tokenizer
from harness.diffusion.training.trainers import read_pictures

SAMPLES = 64
"""Pictures of each style or object."""
GUIDANCE = (3.0, 1.5)


def evaluate(folder: Path, work: Path) -> dict[str, Any]:
    """Evaluate the networks that the recipe has trained.

    folder: the recipe's output folder. work: its folder of intermediate files. Returns `autoencoder_db`, the PSNR on
    held-out pictures in dB (of the mean squared error over all of them); `classifier_…`, accuracies on them;
    `contrastive_top1`, the retrieval accuracy on them; and by guidance the share of sampled pictures in which the
    classifier sees the content of the prompt.
    """
    network = loaded(classifier(), folder / "classifier.safetensors")
    model = TextToImage.load(str(folder / "pipeline"))
    real = read_pictures(work, "heldout")
    images = real["images"]
    apart = model.decode(model.encode(images)).astype(float) / 255 - images / 255
    values = {"autoencoder_db": -10 * np.log10(np.square(apart).mean())}
    for kind, truth in (("object", real["objects"]), ("style", real["styles"] % len(CLASSES["style"]))):
        right = [recognised(images[truth == i], kind, name, network) for i, name in enumerate(CLASSES[kind])]
        values[f"classifier_{kind}"] = float(np.concatenate(right).mean())
    values["contrastive_top1"] = _retrieval(folder, real)
    for guidance in GUIDANCE:
        values[f"guidance_{guidance}"] = _samples(model, network, guidance)
    return values


def _samples(model: TextToImage, network: torch.nn.Module, guidance: float) -> dict[str, Any]:
    """Share of sampled pictures in which the classifier sees their style, their object, or both."""

    def share(prompt: str, count: int, **wanted: str) -> float:
        images, _ = model.sample(
            [prompt] * count, range(1000, 1000 + count), sampler="ddim", steps=20, guidance=guidance, rows=32
        )
        return float(np.all([recognised(images, kind, name, network) for kind, name in wanted.items()], 0).mean())

    objects, styles = CLASSES["object"], CLASSES["style"][:-1]
    both = [[share(f"a {o} by {s}", SAMPLES // 4, object=o, style=s) for s in styles] for o in objects]
    return {
        "style": {s: share(f"an artwork by {s}", SAMPLES, style=s) for s in styles},
        "object": {o: share(f"a photo of a {o}", SAMPLES, object=o, style="photo") for o in objects},
        "both": float(np.mean(both)),
        "both_by_object": dict(zip(objects, np.mean(both, 1).tolist(), strict=True)),
        "both_by_style": dict(zip(styles, np.mean(both, 0).tolist(), strict=True)),
    }


@torch.no_grad()
def _retrieval(folder: Path, real: dict[str, Any]) -> float:
    """Share of pictures with a caption "a X by S" whose nearest caption, among all of that form, is their own."""
    tokens = tokenizer()
    encoder = loaded(contrastive(len(tokens)), folder / "contrastive.safetensors")
    captions = [f"a {o} by {s}" for o in CLASSES["object"] for s in CLASSES["style"][:-1]]
    chosen = [i for i, caption in enumerate(real["captions"]) if caption in captions]
    texts = encoder.encode_text(tokens(captions, padding="max_length", return_tensors="pt").input_ids, normalize=True)
    pictures = encoder.encode_image(as_pixels(torch.from_numpy(real["images"][chosen])), normalize=True)
    nearest = (pictures @ texts.T).argmax(1).tolist()
    return float(np.mean([captions[n] == real["captions"][i] for n, i in zip(nearest, chosen, strict=True)]))
