"""The common part of this track's jobs: loading a base model, saving weights and sampling pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from harness.diffusion.concepts import Concept
from harness.diffusion.model import Images, TextToImage
from harness.diffusion.protocol import Sampling
from harness.diffusion.views import IMAGES
from harness.stage import Located, Stage, seed_of
from harness.store.tensors import load_tensors, save_tensors
from harness.versions import Version

WEIGHTS = "unet.safetensors"


class PipelineStage(Stage, track="diffusion"):
    """A job on a base model. base: the base model. precision: see `harness.diffusion.concepts.PRECISIONS`."""

    gpu: ClassVar[bool] = True
    base: Located
    precision: str

    @property
    def network(self) -> str:
        """Digest of the base model and its precision."""
        return f"{str(self.base.digest)[:12]} {self.precision}"

    def untouched(self) -> TextToImage:
        """The base model, which callers must not change; consecutive jobs read it from disk once. Sets the switch
        of TensorFloat-32 for the rest of the job (see `harness.execution.determinism.isolated`)."""
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        return _read_base(self.base.path, self.precision, self.base.check())

    def load(self, *artifacts: Path) -> TextToImage:
        """A copy of the base model that may be changed, with the weights in the folders `artifacts`."""
        return apply_weights(self.untouched().copy(), *artifacts)

    def save_weights(self, model: TextToImage, out: Path) -> None:
        """Save the U-Net weights of `model` that differ from the base model's into the artifact folder `out`."""
        save_tensors(model.changed(self.untouched().unet.state_dict()), out / WEIGHTS)


@lru_cache(maxsize=1)
def _read_base(base: str, precision: str, versions: tuple[Version, ...]) -> TextToImage:
    return TextToImage.load(base, precision)


def forget_base() -> None:
    """Free the memory of the base model that was read last, once no job uses it; the next one reads it again."""
    _read_base.cache_clear()


def apply_weights(model: TextToImage, *artifacts: Path) -> TextToImage:
    """Copy the weights in the folders `artifacts` into the U-Net of `model`, in place; if a folder has any of a text
    encoder, these too. Returns `model`."""
    for folder in artifacts:
        for part, module in {"unet": model.unet, **model.text_encoders}.items():
            state, path = dict(module.named_parameters()), folder / f"{part}.safetensors"
            with torch.no_grad():
                for name, value in load_tensors(path).items() if path.is_file() else ():
                    state[name].copy_(value)
    return model


class SamplingStage(PipelineStage):
    """A job that samples pictures."""

    sampling: Sampling

    def sample(self, model: TextToImage, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
        """A picture for each prompt, from noise by its seed: (n, height, width, 3), and which are finite, (n,) bool."""
        return model.sample(prompts, seeds, **self.sampling.model_dump())

    def sample_each(self, model: TextToImage, concepts: Sequence[Concept], count: int, *noise: Any) -> Any:
        """`count` pictures of each concept by its words: (concepts, count, height, width, 3), and which are finite,
        (concepts, count) bool. The noise of a picture depends on `noise`, the concept and the picture's index."""
        prompts = [concept.prompted() for concept in concepts for _ in range(count)]
        seeds = [seed_of(*noise, concept.name, i) for concept in concepts for i in range(count)]
        images, finite = self.sample(model, prompts, seeds)
        return images.reshape(-1, count, *images.shape[1:]), finite.reshape(-1, count)


def save_images(out: Path, images: Images, finite: np.ndarray[Any, Any] | None = None, **more: Images) -> None:
    """Save pictures in the artifact folder `out`.

    images: (…, n, height, width, 3) uint8. finite: (…, n) bool; None: all are finite. more: other pictures by name.
    """
    arrays = {"images": images, "finite": np.ones(images.shape[:-3], bool) if finite is None else finite, **more}
    save_tensors({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}, out / IMAGES)
