"""What the small base and its encoders reach, judged by a classifier of real held-out pictures: the model card's
figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.diffusion.encoders import verdicts
from harness.diffusion.model import TextToImage, as_pixels
from harness.diffusion.small.lessons import read_pictures
from harness.diffusion.small.networks import CLASSES, classifier, contrastive, loaded, tokenizer

SAMPLES = 64
"""pictures a style or object"""
GUIDANCE = (3.0, 1.5)


def figures(folder: Path, work: Path) -> dict[str, Any]:
    """PSNR of the autoencoder on held-out pictures (dB, of the mean squared error over all); accuracy of the
    classifier and retrieval of the contrastive encoder on them; how often a sampled picture shows what its prompt
    says, by guidance."""
    judge = loaded(classifier(), folder / "classifier.safetensors")
    model = TextToImage.load(str(folder / "pipeline"))
    real = read_pictures(work, "heldout")
    images = real["images"]
    apart = model.decode(model.encode(images)).astype(float) / 255 - images / 255
    found = {"autoencoder_db": -10 * np.log10(np.square(apart).mean())}
    for kind, truth in (("object", real["objects"]), ("style", real["styles"] % len(CLASSES["style"]))):
        right = [verdicts(images[truth == i], kind, name, judge) for i, name in enumerate(CLASSES[kind])]
        found[f"classifier_{kind}"] = float(np.concatenate(right).mean())
    found["contrastive_top1"] = _retrieval(folder, real)
    for guidance in GUIDANCE:
        found[f"guidance_{guidance}"] = _samples(model, judge, guidance)
    return found


def _samples(model: TextToImage, judge: torch.nn.Module, guidance: float) -> dict[str, Any]:
    def rate(prompt: str, count: int, **wanted: str) -> float:
        images, _ = model.sample(
            [prompt] * count, range(1000, 1000 + count), sampler="ddim", steps=20, guidance=guidance, rows=32
        )
        return float(np.all([verdicts(images, kind, name, judge) for kind, name in wanted.items()], 0).mean())

    objects, styles = CLASSES["object"], CLASSES["style"][:-1]
    both = [[rate(f"a {o} by {s}", SAMPLES // 4, object=o, style=s) for s in styles] for o in objects]
    return {
        "style": {s: rate(f"an artwork by {s}", SAMPLES, style=s) for s in styles},
        "object": {o: rate(f"a photo of a {o}", SAMPLES, object=o, style="photo") for o in objects},
        "both": float(np.mean(both)),
        "both_by_object": dict(zip(objects, np.mean(both, 1).tolist(), strict=True)),
        "both_by_style": dict(zip(styles, np.mean(both, 0).tolist(), strict=True)),
    }


@torch.no_grad()
def _retrieval(folder: Path, real: dict[str, Any]) -> float:
    """How often, among all "a X by S", the caption nearest to a picture of that form is its own."""
    tokens = tokenizer()
    encoder = loaded(contrastive(len(tokens)), folder / "contrastive.safetensors")
    captions = [f"a {o} by {s}" for o in CLASSES["object"] for s in CLASSES["style"][:-1]]
    of = [i for i, caption in enumerate(real["captions"]) if caption in captions]
    texts = encoder.encode_text(tokens(captions, padding="max_length", return_tensors="pt").input_ids, normalize=True)
    pictures = encoder.encode_image(as_pixels(torch.from_numpy(real["images"][of])), normalize=True)
    nearest = (pictures @ texts.T).argmax(1).tolist()
    return float(np.mean([captions[n] == real["captions"][i] for n, i in zip(nearest, of, strict=True)]))
