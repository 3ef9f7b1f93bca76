"""The jobs that defend and attack models and draw their pictures. The jobs before them are in
`harness.diffusion.undefended`, the measuring jobs in `harness.diffusion.measuring`.

Jobs of a cell: pictures (of each concept) and captions, erase -> class pictures -> immunize -> kept pictures ->
attack -> look -> measure, where the last one also gets the attacked undefended model; and before any attack
immunize -> draw -> look -> measure. A look runs the encoders and the concept classifier on pictures.

The pictures of models that nobody has defended (training and reference pictures, pictures of captions and of class
prompts, and the pictures that check an erasure) are data: their noise depends on the concept, caption or prompt only,
and all cells share them. All other noise comes from a job's seed; see `harness.diffusion.jobs`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness import checkpoints
from harness.diffusion import encoders, weights
from harness.diffusion.concepts import Concept
from harness.diffusion.data import ConceptData, Targets
from harness.diffusion.model import Images, TextToImage, changed, unet_weights
from harness.diffusion.pipeline_stage import WEIGHTS, SamplingStage, apply_weights, forget_base, save_images
from harness.diffusion.undefended import Captions, ClassPictures, Erase, Pictures
from harness.diffusion.views import IMAGES
from harness.execution.released import immunize
from harness.stage import Folders, Located, seed_of
from harness.store.tensors import load_tensors, save_tensors


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
        """A model that may be changed, with the base model's weights but for those in the folders `artifacts`. With
        checkpointing it is the base model itself, which the next job reads again: a copy would need as much memory."""
        if not self.checkpointing:
            return super().load(*artifacts)
        model = TextToImage(self.untouched().pipeline)
        forget_base()
        model.checkpoint()
        return apply_weights(model, *artifacts)

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
        for part, encoder in self.untouched().text_encoders.items():
            if changed := model.changed(encoder.state_dict(), part):
                save_tensors(changed, out / f"{part}.safetensors")


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
