"""The jobs that make pictures of models that nobody has defended, and that erase concepts from the base model.

Training and reference pictures, pictures of captions and of class prompts, and the pictures that check an erasure are
data: their noise depends on the concept, caption or prompt only, and all cells share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.diffusion import encoders
from harness.diffusion.concepts import Concept, fill
from harness.diffusion.erase import erase
from harness.diffusion.image_folder import folder_digest, one_picture, read_images
from harness.diffusion.model import TextToImage
from harness.diffusion.pipeline_stage import PipelineStage, SamplingStage, save_images
from harness.diffusion.protocol import Erasure
from harness.errors import RunError
from harness.stage import Folders, Located, seed_of

GATE_IMAGES = 4
"""Number of pictures of each concept to keep that check an erasure."""


class ReadPictures(PipelineStage, version=1):
    """A concept's pictures from a folder, ordered by name: the first, third, … for attackers, which are also the
    reference pictures, and the second, fourth, … for defenses.

    shared: all pictures for both, because a folder may hold few.
    """

    concept: Concept
    folder: Located
    shared: bool

    def run(self, folders: Folders, out: Path) -> None:
        """Save the pictures, resized to the base model's size; raises `RunError` if they are not those in the key, or
        if there is only one and it is not shared."""
        model = self.untouched()
        side = int(model.unet.config.sample_size * model.pipeline.vae_scale_factor)
        images = read_images(self.folder.path, side)
        if folder_digest(self.folder.path) != self.folder.digest:
            raise RunError(f"the pictures in {self.folder.path} have changed since the run began: run it again")
        if self.shared:
            save_images(out, images, training=images.copy())
        elif len(images) == 1:
            raise RunError(one_picture(self.folder.path))
        else:
            save_images(out, images[::2], training=images[::2].copy(), defender=images[1::2])


class DrawPictures(SamplingStage, version=1):
    """A concept's pictures by the base model before any erasure: `training` pictures for attackers, `images` other
    pictures as reference, and again `training` other pictures for defenses. They are data, so their noise depends on
    the concept only.

    shared: the attackers' pictures for defenses too.
    """

    concept: Concept
    training: int
    images: int
    shared: bool

    @property
    def work(self) -> float:
        """Denoising steps."""
        return float(self._count * self.sampling.steps)

    @property
    def _count(self) -> int:
        return self.images + (1 if self.shared else 2) * self.training

    def run(self, folders: Folders, out: Path) -> None:
        """Sample and save the pictures; raises `RunError` if one is not finite."""
        (images,), finite = self.sample_each(self.untouched(), [self.concept], self._count, "pictures")
        if not finite.all():
            raise RunError(f"the base model's pictures of '{self.concept.prompted()}' are not finite")
        training, reference, defender = np.split(images, [self.training, self.training + self.images])
        save_images(out, reference, training=training, **({} if self.shared else {"defender": defender}))


Pictures = ReadPictures | DrawPictures


class Captions(SamplingStage, version=1):
    """A picture of each caption by the base model before any erasure. They are data, so their noise depends on the
    caption only."""

    captions: tuple[str, ...]

    @property
    def work(self) -> float:
        """Denoising steps."""
        return float(len(self.captions) * self.sampling.steps)

    def run(self, folders: Folders, out: Path) -> None:
        """Sample and save the pictures; raises `RunError` if one is not finite."""
        seeds = [seed_of("caption", caption) for caption in self.captions]
        images, finite = self.sample(self.untouched(), self.captions, seeds)
        if not finite.all():
            raise RunError(f"the base model's picture of '{self.captions[int(finite.argmin())]}' is not finite")
        save_images(out, images)


class Erase(SamplingStage, version=2):
    """Erase concepts from the base model (see `harness.diffusion.erase`) and check that it still draws the others."""

    targets: tuple[Concept, ...]
    kept: tuple[Concept, ...]
    erasure: Erasure

    def run(self, folders: Folders, out: Path) -> None:
        """Save the erased base model's weights; raises `RunError` if its retention of the kept concepts is lower than
        `erasure.gate` allows."""
        edits = [
            (fill(prompt, concept.words), concept.words, anchor)
            for concept in self.targets
            for prompt, anchor in {concept.prompt: concept.class_prompt, **concept.erase}.items()
        ]
        prompts = [(prompt, concept.words) for concept in self.kept for prompt in (concept.prompt, *concept.erase)]
        keep = [
            (fill(prompt, words), words)
            for prompt, words in prompts
            if not any(target.named_in(prompt) for target in self.targets)
        ]
        model = self.load()
        known = [concept for concept in self.kept if concept.classifier]
        before = self._success(model, known)
        erase(model, edits, keep, self.erasure)
        after = self._success(model, known)
        if known and np.mean(after) < self.erasure.gate * np.mean(before):
            drop, name, left = min((a - b, c.name, a) for a, b, c in zip(after, before, known, strict=True))
            raise RunError(
                f"the erased base model no longer draws its other concepts: recognised in {np.mean(after):.2f} of the "
                f"pictures, before {np.mean(before):.2f} (worst: {name}, {left:.2f}, before {left - drop:.2f}); raise "
                "erasure.keep or lower erasure.strength"
            )
        self.save_weights(model, out)

    def _success(self, model: TextToImage, concepts: Sequence[Concept]) -> list[float]:
        """For each concept the share of GATE_IMAGES pictures in which the classifier sees it."""
        if not concepts:
            return []
        images, _ = self.sample_each(model, concepts, GATE_IMAGES, "gate")
        pairs = zip(images, concepts, strict=True)
        return [float(encoders.recognised(part, str(c.classifier), c.name).mean()) for part, c in pairs]


class ClassPictures(SamplingStage, version=1):
    """Pictures of a class prompt for prior preservation, by the undefended model: the erased base model or, where
    nothing is erased, the base model. They are data, so their noise depends on the prompt and the picture's index
    only; all defenses, attackers and seeds share them.

    prompt: the class prompt. count: number of pictures. erased: the job of the erased base model; None: the base model.
    """

    prompt: str
    count: int
    erased: Erase | None = None

    @property
    def work(self) -> float:
        """Denoising steps."""
        return float(self.count * self.sampling.steps)

    def run(self, folders: Folders, out: Path) -> None:
        """Sample and save the pictures; raises `RunError` if one is not finite."""
        model = self.load(folders[self.erased]) if self.erased else self.untouched()
        seeds = [seed_of("class", self.prompt, i) for i in range(self.count)]
        images, finite = self.sample(model, [self.prompt] * self.count, seeds)
        if not finite.all():
            raise RunError(f"the undefended model's pictures of '{self.prompt}' are not finite")
        save_images(out, images)
