"""Pictures from folders, and the batches an attacker trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.diffusion.concepts import SUFFIXES, Concept, pictures
from harness.diffusion.model import Batch, Images, TextToImage
from harness.errors import RunError
from harness.plan import seed_of

LARGEST = 8192
"""pixels a side of a picture that is read"""


@dataclass(frozen=True)
class Subject:
    """A concept and its pictures, as an attacker of `model` has them.

    Batches, noise and time steps depend on `seed` and the step alone, so whatever the model and the attacker, the
    attack meets the same draws.
    """

    concept: Concept
    images: Images
    model: TextToImage
    seed: int
    sampled: Callable[[str, int], Images] = field(repr=False)
    """The released model's own pictures of a prompt, for prior preservation."""

    def batches(
        self, prompt: str, rows: int, *, flip: bool = False, prior: int = 0, prior_weight: float = 1.0
    ) -> Iterator[Batch]:
        """Endless batches of `rows` pictures with one prompt; the latents are encoded once.

        flip: half of the pictures mirrored. prior: so many pictures that the released model makes of the class
        prompt; each batch then has `rows` of them too, weighted (Ruiz et al., 2023, Eq. 2).
        """
        pool = [self.model.encode(self.images)]
        if flip:
            pool.append(self.model.encode(self.images[:, :, ::-1]))
        latents = torch.stack(pool, 1)
        known = self.model.encode(self.sampled(self.concept.class_prompt, prior)) if prior else None
        step = 0
        while True:
            draw = torch.Generator().manual_seed(seed_of("batch", self.seed, step))
            chosen = torch.randint(len(latents), (rows,), generator=draw)
            mirrored = torch.randint(len(pool), (rows,), generator=draw)
            batch, prompts, weights = latents[chosen, mirrored], [prompt] * rows, None
            if known is not None:
                batch = torch.cat([batch, known[torch.randint(len(known), (rows,), generator=draw)]])
                prompts += [self.concept.class_prompt] * rows
                weights = torch.tensor([2.0] * rows + [2.0 * prior_weight] * rows)  # the mean of each half
            noise = torch.randn(batch.shape, generator=draw)
            last = self.model.scheduler.config.num_train_timesteps
            times = torch.randint(last, (len(batch),), generator=draw)
            yield Batch(batch, prompts, noise, times, weights)
            step += 1


def read_images(folder: str, size: int) -> Images:
    """The pictures of a folder, by name, cropped to the middle square and resized; (n, size, size, 3).

    Raises `RunError`, naming the file, for a folder without pictures, one that cannot be read, is larger than
    LARGEST pixels a side, or has no red, green and blue.
    """
    files = pictures(folder)
    if not files:
        raise RunError(f"no pictures in {folder}; put some there ({' '.join(SUFFIXES)})")
    return np.stack([_read(path, size) for path in files])


def _read(path: Path, size: int) -> Images:
    try:
        with Image.open(path) as image:
            if max(image.size) > LARGEST:
                raise RunError(f"{path} has {image.width}×{image.height} pixels; at most {LARGEST} a side: shrink it")
            if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "1"):
                raise RunError(f"{path} has colours in {image.mode}; save it as RGB")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise RunError(f"cannot read the picture {path}: {error}") from None
    white = Image.new("RGBA", upright.size, "white")
    flat = Image.alpha_composite(white, upright).convert("RGB")
    side = min(flat.size)
    left, top = (flat.width - side) // 2, (flat.height - side) // 2
    middle = flat.crop((left, top, left + side, top + side))  # first, or the filter would reach beyond it
    return np.asarray(middle.resize((size, size), Image.Resampling.LANCZOS))
