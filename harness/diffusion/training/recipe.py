"""Trains the small base and its encoders from scratch: `python -m harness.diffusion.training.recipe DIR`.

Its steps are pictures, autoencoder, latents, denoiser, encoders and evaluation. Each step writes a file and is skipped
if the file exists, so the recipe can be interrupted at any time and started again. It takes over an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors import torch as safetensors

from harness.diffusion.model import as_images, as_pixels
from harness.diffusion.small import dataset
from harness.diffusion.small.networks import halved, tokenizer
from harness.diffusion.training import evaluation
from harness.diffusion.training.model_card import card
from harness.diffusion.training.trainers import (
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
)
from harness.diffusion.training.training_loop import seconds, train, write
from harness.errors import ImmuneBenchError
from harness.files import write_text
from harness.stage import seed_of

VERSION = 2
"""Version of the recipe: 2 has captions that name colours, and 13,000 steps of the denoiser instead of 10,000."""
VAE = "vae.safetensors"
TRAINING, HELD_OUT = 64_000, 6_000
ROUND_TRIPS = 16_000
"""Training pictures that the autoencoder encodes and decodes for the classifier."""
VIEWS = 400
"""Views of each subject for the classifier."""
SHIPPED_VIEWS = 5
"""Views of each subject that ship."""


def run(
    folder: Path,
    *,
    fashion: Path = dataset.FASHION,
    seed: int = 1,
    processes: int = 2,
    report: Callable[[str], None] = print,
) -> None:
    """Train the small base and its encoders.

    folder: output folder, for `pipeline/`, `classifier.safetensors`, `contrastive.safetensors`, `subjects/NAME/0.png
    …`, `evaluation.json`, `README.md` and intermediate files in `work/`. fashion: folder of Fashion-MNIST's idx files.
    seed: seed of all draws. processes: number of training processes, a divisor of the rows of a step; another number
    gives other weights. report: called with each line of progress. Raises `RunError` if the training data cannot be
    read.
    """
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    _pictures(work, fashion, seed)
    _latents(work, seed, processes, report)
    _pipeline(work, folder / "pipeline", seed, processes, report)
    _subjects(work, folder / "subjects", fashion, seed)
    for trainer in (Classifier, Contrastive):
        network = trainer(work).network
        network.load_state_dict(train(trainer, work, seed, processes, report))
        (folder / f"{trainer.name}.safetensors").write_bytes(safetensors.save(halved(network)))
    values = {"recipe": VERSION, **evaluation.evaluate(folder, work)}
    trainers = (Autoencoder, Denoiser, Classifier, Contrastive)
    values["seconds"] = {trainer.name: seconds(trainer, work) for trainer in trainers}
    write_text(folder / "evaluation.json", json.dumps(values, indent=1) + "\n")
    write_text(folder / "README.md", card(values))


def _pictures(work: Path, fashion: Path, seed: int) -> None:
    """Render the training and held-out pictures."""
    for split, count, draw in (("train", TRAINING, seed), ("heldout", HELD_OUT, seed + 1)):
        if not (work / f"{split}.txt").exists():
            made = dataset.pictures(dataset.items(split, fashion), count, draw)
            np.savez(work / f"{split}.npz", images=made.images, objects=made.objects, styles=made.styles)
            write_text(work / f"{split}.txt", "\n".join(made.captions) + "\n")


def _latents(work: Path, seed: int, processes: int, report: Callable[[str], None]) -> None:
    """Train the autoencoder, encode the training pictures, and decode some of the latents."""
    weights = train(Autoencoder, work, seed, processes, report)
    images = read_pictures(work, "train")["images"]
    if not (work / LATENTS).exists():
        network = Autoencoder(work).network
        network.load_state_dict(weights)
        latents = _encoded(network, images)
        normalised(network, latents)
        write(network.state_dict(), work / VAE)
        mean, deviation = (values[:, None, None] for values in (latents.mean((0, 2, 3)), latents.std((0, 2, 3))))
        write({"latents": (latents - mean) / deviation}, work / LATENTS)
    if not (work / DECODED).exists():
        latents = safetensors.load((work / LATENTS).read_bytes())["latents"][:ROUND_TRIPS]
        np.save(work / DECODED, _decoded(_vae(work), latents))


def _pipeline(work: Path, out: Path, seed: int, processes: int, report: Callable[[str], None]) -> None:
    """Train the denoiser and save the pipeline in fp16."""
    network = Denoiser(work).network
    network.load_state_dict(train(Denoiser, work, seed, processes, report))
    StableDiffusionPipeline(
        vae=_vae(work),
        text_encoder=network["text_encoder"],
        tokenizer=tokenizer(),
        unet=network["unet"],
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(out)


def _subjects(work: Path, out: Path, fashion: Path, seed: int) -> None:
    """Render views of each subject: some to ship, and more for the classifier, with their encoded and decoded
    copies."""
    grey = dataset.items("heldout", fashion)
    network = _vae(work)
    views = []
    for subject in dataset.SUBJECTS:
        (out / subject.name).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(shipped_views(subject, grey, seed)):
            Image.fromarray(image).save(out / subject.name / f"{i}.png")
        images = dataset.portraits(subject, grey, VIEWS, seed_of("views", seed))
        views.append(np.stack([images, _decoded(network, _encoded(network, images))], 1))
    np.save(work / PORTRAITS, np.stack(views))


def shipped_views(subject: dataset.Subject, grey: Mapping[str, npt.NDArray[np.float32]], seed: int) -> dataset.Images:
    """The shipped views (n, 32, 32, 3) of `subject`. grey: held-out items by object. seed: seed of the recipe."""
    return dataset.portraits(subject, grey, SHIPPED_VIEWS, seed_of("shipped", seed))


def _vae(work: Path) -> AutoencoderKL:
    """The autoencoder with normalised latents."""
    network = Autoencoder(work).network
    network.load_state_dict(safetensors.load((work / VAE).read_bytes()))
    return network.eval()


def _encoded(network: AutoencoderKL, images: dataset.Images) -> torch.Tensor:
    with torch.no_grad():
        parts = torch.from_numpy(images).split(500)
        return torch.cat([network.encode(as_pixels(part)).latent_dist.mode() for part in parts])


def _decoded(network: AutoencoderKL, latents: torch.Tensor) -> dataset.Images:
    with torch.no_grad():
        return np.concatenate([as_images(network.decode(part).sample) for part in latents.split(500)])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line with `arguments` (None: those of the process); returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.diffusion.training.recipe", description=str(__doc__))
    parser.add_argument("folder", type=Path, metavar="DIR", help="output folder")
    parser.add_argument("--fashion", type=Path, default=dataset.FASHION, help="folder of Fashion-MNIST's idx files")
    parser.add_argument("--seed", type=int, default=1, help="seed of all draws")
    parser.add_argument("--processes", type=int, default=2, help="number of training processes")
    given = parser.parse_args(arguments)
    try:
        run(given.folder, fashion=given.fashion, seed=given.seed, processes=given.processes)
    except ImmuneBenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
