"""The recipe of the small base and of its encoders: pictures, autoencoder, latents, denoiser, encoders, figures.

Each step leaves a file and is skipped if it is there, so the recipe can be cut off at any moment and called again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors import torch as safetensors

from harness.diffusion.model import as_images, as_pixels
from harness.diffusion.small import assess, world
from harness.diffusion.small.card import card
from harness.diffusion.small.lessons import (
    DECODED,
    LATENTS,
    PORTRAITS,
    Autoencoder,
    Classifier,
    Contrastive,
    Denoiser,
    normalised,
    read_pictures,
    scheduler,
)  # fmt: skip
from harness.diffusion.small.networks import halved, tokenizer
from harness.diffusion.small.training import seconds, train, write
from harness.plan import seed_of

VAE = "vae.safetensors"
TRAINING, HELD_OUT = 64_000, 6_000
ROUND_TRIPS = 16_000
"""training pictures as the autoencoder gives them back, for the classifier"""
VIEWS = 400
"""of each persona, for the classifier"""
SHIPPED_VIEWS = 5


def run(
    folder: Path,
    *,
    fashion: Path = world.FASHION,
    seed: int = 1,
    processes: int = 2,
    tell: Callable[[str], None] = print,
) -> None:
    """Train everything into `folder`: `pipeline/`, `classifier.safetensors`, `contrastive.safetensors`,
    `personas/NAME/0.png …`, `figures.json` and `README.md`; what it needs on the way lies in `folder/work`."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    _pictures(work, fashion, seed)
    _latents(work, seed, processes, tell)
    _pipeline(work, folder / "pipeline", seed, processes, tell)
    _personas(work, folder / "personas", fashion, seed)
    for lesson in (Classifier, Contrastive):
        taught = lesson(work)
        taught.network.load_state_dict(train(lesson, work, seed, processes, tell))
        (folder / f"{lesson.name}.safetensors").write_bytes(safetensors.save(halved(taught.network)))
    figures = assess.figures(folder, work)
    lessons = (Autoencoder, Denoiser, Classifier, Contrastive)
    figures["seconds"] = {lesson.name: seconds(lesson, work) for lesson in lessons}
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    words = {"objects": world.OBJECTS, "styles": world.STYLES, "rare": world.RARE_WORDS}
    (folder / "README.md").write_text(card(figures, words, assess.SAMPLES))


def _pictures(work: Path, fashion: Path, seed: int) -> None:
    for split, count, draw in (("train", TRAINING, seed), ("heldout", HELD_OUT, seed + 1)):
        if not (work / f"{split}.txt").exists():
            found = world.pictures(world.items(split, fashion), count, draw)
            np.savez(work / f"{split}.npz", images=found.images, objects=found.objects, styles=found.styles)
            (work / f"{split}.txt").write_text("\n".join(found.captions) + "\n")


def _latents(work: Path, seed: int, processes: int, tell: Callable[[str], None]) -> None:
    """The autoencoder, its latents of the training pictures, and some of these as it gives them back."""
    weights = train(Autoencoder, work, seed, processes, tell)
    images = read_pictures(work, "train")["images"]
    if not (work / LATENTS).exists():
        network = Autoencoder(work).network
        network.load_state_dict(weights)
        latents = _encoded(network, images)
        normalised(network, latents)
        write(network.state_dict(), work / VAE)
        mean, deviation = (of[:, None, None] for of in (latents.mean((0, 2, 3)), latents.std((0, 2, 3))))
        write({"latents": (latents - mean) / deviation}, work / LATENTS)
    if not (work / DECODED).exists():
        latents = safetensors.load((work / LATENTS).read_bytes())["latents"][:ROUND_TRIPS]
        np.save(work / DECODED, _decoded(_vae(work), latents))


def _pipeline(work: Path, out: Path, seed: int, processes: int, tell: Callable[[str], None]) -> None:
    taught = Denoiser(work)
    taught.network.load_state_dict(train(Denoiser, work, seed, processes, tell))
    StableDiffusionPipeline(
        vae=_vae(work),
        text_encoder=taught.network["text_encoder"],
        tokenizer=tokenizer(),
        unet=taught.network["unet"],
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(out)


def _personas(work: Path, out: Path, fashion: Path, seed: int) -> None:
    """Views of each persona: some to ship, and more, as they are and decoded, for the classifier."""
    grey = world.items("heldout", fashion)
    network = _vae(work)
    views = []
    for persona in world.PERSONAS:
        (out / persona.name).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(shipped_views(persona, grey, seed)):
            Image.fromarray(image).save(out / persona.name / f"{i}.png")
        images = world.portraits(persona, grey, VIEWS, seed_of("views", seed))
        views.append(np.stack([images, _decoded(network, _encoded(network, images))], 1))
    np.save(work / PORTRAITS, np.stack(views))


def shipped_views(persona: world.Persona, grey: Mapping[str, npt.NDArray[np.float32]], seed: int) -> world.Images:
    """The views of a persona that ship, of held-out items `grey`."""
    return world.portraits(persona, grey, SHIPPED_VIEWS, seed_of("shipped", seed))


def _vae(work: Path) -> AutoencoderKL:
    """The autoencoder with normalised latents."""
    network = Autoencoder(work).network
    network.load_state_dict(safetensors.load((work / VAE).read_bytes()))
    return network.eval()


def _encoded(network: AutoencoderKL, images: world.Images) -> torch.Tensor:
    with torch.no_grad():
        parts = torch.from_numpy(images).split(500)
        return torch.cat([network.encode(as_pixels(part)).latent_dist.mode() for part in parts])


def _decoded(network: AutoencoderKL, latents: torch.Tensor) -> world.Images:
    with torch.no_grad():
        return np.concatenate([as_images(network.decode(part).sample) for part in latents.split(500)])
