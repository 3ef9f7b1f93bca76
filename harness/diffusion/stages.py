"""The jobs that make this track's models and pictures; the measuring jobs are in `harness.diffusion.measuring`.

Jobs of a cell: pictures (of each concept) and captions, erase -> class pictures -> immunize -> kept pictures ->
attack -> look -> measure, where the last one also gets the attacked undefended model; and before any attack
immunize -> draw -> look -> measure. A look runs the encoders and the concept classifier on pictures.

The pictures of models that nobody has defended (training and reference pictures, pictures of captions and of class
prompts, and the pictures that check an erasure) are data: their noise depends on the concept, caption or prompt only,
and all cells share them. All other noise comes from a job's seed; see `harness.diffusion.jobs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from harness import checkpoints
from harness.diffusion import encoders, weights
from harness.diffusion.concepts import Concept, fill
from harness.diffusion.data import ConceptData, Targets
from harness.diffusion.erase import erase
from harness.diffusion.image_folder import folder_digest, one_picture, read_images
from harness.diffusion.model import Images, TextToImage, changed, unet_weights
from harness.diffusion.protocol import Erasure, Sampling
from harness.diffusion.views import IMAGES
from harness.errors import RunError
from harness.execution.released import immunize
from harness.stage import Folders, Located, Stage, seed_of
from harness.store.tensors import load_tensors, save_tensors
from harness.versions import Version

GATE_IMAGES = 4
"""Number of pictures of each concept to keep that check an erasure."""
WEIGHTS, TEXT_WEIGHTS = "unet.safetensors", "text_encoder.safetensors"


class PipelineStage(Stage, track="diffusion"):
    """A job on a base model. base: the base model. precision: see `harness.diffusion.concepts.PRECISIONS`."""

    gpu: ClassVar[bool] = True
    base: Located
    precision: str

    def untouched(self) -> TextToImage:
        """The base model, which callers must not change; consecutive jobs read it from disk once. Sets the switch
        of TensorFloat-32 for the rest of the job (see `harness.execution.determinism.isolated`)."""
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        return _read_base(self.base.path, self.precision, self.base.check())

    def load(self, *artifacts: Path) -> TextToImage:
        """A copy of the base model that may be changed, with the weights in the folders `artifacts`."""
        model = self.untouched().copy()
        for folder in artifacts:
            apply_weights(model, folder)
        return model

    def save_weights(self, model: TextToImage, out: Path) -> None:
        """Save the U-Net weights of `model` that differ from the base model's into the artifact folder `out`."""
        save_tensors(model.changed(self.untouched().unet.state_dict()), out / WEIGHTS)


@lru_cache(maxsize=1)
def _read_base(base: str, precision: str, versions: tuple[Version, ...]) -> TextToImage:
    return TextToImage.load(base, precision)


def apply_weights(model: TextToImage, folder: Path) -> None:
    """Copy the weights in the artifact folder `folder` into the U-Net of `model`, in place; if it has any of a text
    encoder, these too."""
    for module, path in ((model.unet, folder / WEIGHTS), (model.text_encoder, folder / TEXT_WEIGHTS)):
        state = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in load_tensors(path).items() if path.is_file() else ():
                state[name].copy_(value)


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


class TrainingStage(SamplingStage):
    """A job whose plugin trains a model and may read class pictures.

    class_pictures: the jobs of the pictures that the plugin asks for. They are not in the key, because the other fields
    determine them, and a plan needs the keys of plugins whose code is not installed. So increase the version of the
    subclasses with that of `ClassPictures`. checkpointing: whether the backward pass computes activations again, which
    changes no value and is not in the key.
    """

    class_pictures: tuple[ClassPictures, ...] = ()
    checkpointing: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """Everything the artifact depends on."""
        left_out = ("class_pictures", "checkpointing")
        return {name: value for name, value in super().identity.items() if name not in left_out}

    def load(self, *artifacts: Path) -> TextToImage:
        """A copy of the base model that may be changed, with the U-Net weights in the folders `artifacts`."""
        model = super().load(*artifacts)
        if self.checkpointing:
            model.checkpoint()
        return model

    def concept_data(
        self, model: TextToImage, concept: Concept, images: Images, seed: int, folders: Folders
    ) -> ConceptData:
        """The data of a concept for the plugin.

        model: the model to train. concept: the concept. images: pictures to train on. seed: seed of the draws. folders:
        artifact folders of the parents.
        """
        drawn = {job.prompt: job for job in self.class_pictures}
        job = drawn.get(concept.class_prompt)
        known = load_tensors(folders[job] / IMAGES)["images"].numpy() if job else images[:0]
        return ConceptData(concept, images, model, seed, known)


class TargetsStage(TrainingStage):
    """A job whose plugin receives the data of a defense.

    targets: the jobs of the targets' pictures. captions: the job of the captions' pictures. kept: indices of the
    captions that the plugin receives.
    """

    targets: tuple[Pictures, ...] = ()
    captions: Captions | None = None
    kept: tuple[int, ...] = ()

    def build_targets(self, model: TextToImage, folders: Folders) -> Targets:
        """The data of a defense for `model`, from the parents' artifact folders `folders`. The draws of each target
        depend on the job's seed and the concept."""
        seed = self.seed or 0
        concepts = tuple(
            self.concept_data(
                model,
                job.concept,
                _given(folders[job], "training" if job.shared else "defender"),
                seed_of(self.name, job.concept.name, seed),
                folders,
            )
            for job in self.targets
        )
        captions: tuple[str, ...] = ()
        pictures = np.empty((0, 1, 1, 3), np.uint8)
        if self.captions is not None:
            captions = tuple(self.captions.captions[i] for i in self.kept)
            pictures = load_tensors(folders[self.captions] / IMAGES)["images"].numpy()[list(self.kept)]
        group = tuple(job.concept.name for job in self.targets)
        return Targets(model, concepts, group, captions, pictures, seed_of(self.name, "kept", seed))


class Immunize(TargetsStage, version=2):
    """Run a defense on the base model, or on the erased base model, which becomes the released model."""

    transient: ClassVar[bool] = True
    apart: ClassVar[bool] = True
    erased: Erase | None = None

    @property
    def work(self) -> float:
        """Number of targets."""
        return float(len(self.targets) or 1)

    def run(self, folders: Folders, out: Path) -> None:
        """Save the released model's weights and the run cost (see `harness.execution.released`)."""
        model = self.load(*([folders[self.erased]] if self.erased else []))
        targets = self.build_targets(model, folders)
        released = immunize(self, model, targets, out, unet_weights)
        save_tensors(changed(released, self.untouched().unet.state_dict()), out / WEIGHTS)


class ReadCheckpoint(Immunize, version=1):
    """Read the released model from a checkpoint. weights: its folder. label: label of the task."""

    weights: Located
    label: str

    def run(self, folders: Folders, out: Path) -> None:
        """Save the weights that differ from the base model's, and the run cost; raises `RunError` if the checkpoint
        does not fit the base model."""
        assert self.plugin is not None
        model = self.load()
        weights.copy_into(model, checkpoints.checkpoint_folder(self.weights.path, self.label))
        self.pull(self.plugin.build().immunize(model, None), out)
        self.save_weights(model, out)
        if changed := model.changed(self.untouched().text_encoder.state_dict(), "text_encoder"):
            save_tensors(changed, out / TEXT_WEIGHTS)


class Draw(SamplingStage, version=1):
    """Draw pictures (concepts, images, …) of concepts with a released model. The noise depends on the seed, the concept
    and the picture's index, so all rows of a repetition share it."""

    concepts: tuple[Concept, ...]
    images: int
    model: Immunize

    @property
    def work(self) -> float:
        """Denoising steps."""
        return float(len(self.concepts) * self.images * self.sampling.steps)

    def run(self, folders: Folders, out: Path) -> None:
        """Save the pictures."""
        model = self.load(folders[self.model])
        save_images(out, *self.sample_each(model, self.concepts, self.images, self.seed))


class KeptPictures(SamplingStage, version=1):
    """Pictures of captions by a released model, for attackers that retain what the captions say. The noise depends on
    the seed and the picture's index, so all rows of a repetition share it.

    captions: a caption for each picture. model: the job of the released model.
    """

    captions: tuple[str, ...]
    model: Immunize

    @property
    def work(self) -> float:
        """Denoising steps."""
        return float(len(self.captions) * self.sampling.steps)

    def run(self, folders: Folders, out: Path) -> None:
        """Save the pictures, also those of a destroyed model."""
        seeds = [seed_of(self.seed, i) for i in range(len(self.captions))]
        save_images(out, *self.sample(self.load(folders[self.model]), self.captions, seeds))


class Attack(TrainingStage, version=3):
    """Fine-tune a released model on a concept, and draw pictures (steps, images, …) of it after the measured steps.

    seed: seed of the attacker's draws. noise: seed of the pictures' noise, which all rows of a repetition share. kept:
    concepts that the classifier knows and the attack is not about. kept_images: pictures of each of them by the
    attacked model, after the last step. captions: captions that the attacker knows. kept_pictures: the job of the
    pictures of these that the attacker asks for; not in the key, for the reason given for `class_pictures`.
    """

    concept: Concept
    steps: int
    measure_at: tuple[int, ...]
    images: int
    save_attacked: bool
    noise: int
    model: Immunize
    pictures: Pictures
    kept: tuple[Concept, ...] = ()
    kept_images: int = 0
    captions: tuple[str, ...] = ()
    kept_pictures: KeptPictures | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything the artifact depends on."""
        return {name: value for name, value in super().identity.items() if name != "kept_pictures"}

    @property
    def work(self) -> float:
        """Optimisation steps; a denoising step of a picture counts as an eighth of one."""
        drawn = self.images * len(self.measure_at) + self.kept_images * len(self.kept)
        return self.steps + drawn * self.sampling.steps / 8

    def run(self, folders: Folders, out: Path) -> None:
        """Save the pictures, whether the kept concepts are recognised in theirs (concepts, kept_images), the run cost
        and, with `save_attacked`, the attacked model."""
        assert self.plugin is not None
        model, attacker = self.load(folders[self.model]), self.plugin.build()
        data = self.concept_data(
            model, self.concept, _given(folders[self.pictures], "training"), self.seed or 0, folders
        )
        if job := self.kept_pictures:
            data = replace(
                data, kept_pictures=load_tensors(folders[job] / IMAGES)["images"].numpy(), captions=job.captions
            )
        seeds = [seed_of(self.noise, self.concept.name, i) for i in range(self.images)]
        drawn = []

        def measure(step: int) -> None:
            if step in self.measure_at:
                drawn.append(self.sample(model, [attacker.prompt(self.concept)] * self.images, seeds))

        self.pull(attacker.adapt(model, data), out, self.steps, measure, self.measure_at)
        known: dict[str, Any] = {}
        if self.kept and self.kept_images:
            images, finite = self.sample_each(model, self.kept, self.kept_images, self.noise)
            pairs = zip(images, self.kept, strict=True)
            known["kept"] = finite & [encoders.recognised(part, str(one.classifier), one.name) for part, one in pairs]
        save_images(out, *(np.stack(parts) for parts in zip(*drawn, strict=True)), **known)
        if self.save_attacked:
            attacker.save(model, out / "attacked")


def _given(pictures: Path, to: str) -> Images:
    """The pictures in the artifact folder `pictures` for attackers (`training`) or defenses (`defender`)."""
    images: Images = load_tensors(pictures / IMAGES)[to].numpy()
    return images


def save_images(out: Path, images: Images, finite: np.ndarray[Any, Any] | None = None, **more: Images) -> None:
    """Save pictures in the artifact folder `out`.

    images: (…, n, height, width, 3) uint8. finite: (…, n) bool; None: all are finite. more: other pictures by name.
    """
    arrays = {"images": images, "finite": np.ones(images.shape[:-3], bool) if finite is None else finite, **more}
    save_tensors({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}, out / IMAGES)
