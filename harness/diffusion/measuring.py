"""The jobs that run encoders on pictures, measure metrics and draw contact sheets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from harness.diffusion import encoders
from harness.diffusion.concepts import Concept
from harness.diffusion.detectors import Asked
from harness.diffusion.model import Images
from harness.diffusion.pipeline_stage import PipelineStage, save_images
from harness.diffusion.sheet import contact_sheet
from harness.diffusion.stages import Immunize, TargetsStage
from harness.diffusion.undefended import Pictures
from harness.diffusion.views import DETECTED, IMAGES, SEEN, AttackedPictures, ConceptAttack, ReleasedData, View
from harness.metric import write_values
from harness.stage import Folders, Located, Stage
from harness.store.tensors import load_tensors, save_tensors

SHEET = "sheet.png"


class Decode(PipelineStage, version=1):
    """Encode and decode a concept's reference pictures: the best pictures that the autoencoder can return."""

    transient: ClassVar[bool] = True
    pictures: Pictures

    def run(self, folders: Folders, out: Path) -> None:
        """Save the decoded pictures."""
        model = self.untouched()
        save_images(out, model.decode(model.encode(load_tensors(folders[self.pictures] / IMAGES)["images"].numpy())))


class Look(Stage, track="diffusion", version=2):
    """Run the encoders and the concept classifier on the pictures of another job.

    encoders: files of local weights by name of the encoder; None: the default weights. classes: (head, class) of the
    classifier: one for all pictures (…, n, height, width, 3), or one for each concept of (concepts, n, …); empty if the
    classifier does not know all concepts. count: number of pictures. images: the job that made the pictures. detectors:
    detectors with their questions; without any the key is that of a job that knows none.
    """

    gpu: ClassVar[bool] = True
    transient: ClassVar[bool] = True
    encoders: Mapping[str, Located | None]
    classes: tuple[tuple[str, str], ...]
    count: int
    images: Stage
    detectors: tuple[Asked, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """Everything the artifact depends on."""
        return {name: value for name, value in super().identity.items() if value or name != "detectors"}

    @property
    def work(self) -> float:
        """Number of pictures."""
        return float(self.count)

    def run(self, folders: Folders, out: Path) -> None:
        """Save the embeddings by encoder, `recognised`, and detectors' answers (see `harness.diffusion.views.View`);
        raises `RunError` if an encoder or a detector fails."""
        pictures = load_tensors(folders[self.images] / IMAGES)["images"]
        lead, images = pictures.shape[:-3], pictures.flatten(0, -4).numpy()
        embeds = {name: used.embed for name, used in _encoders(self.encoders).items()}
        seen = {name: embed(images).unflatten(0, lead) for name, embed in embeds.items() if embed}
        if self.classes:
            parts = zip(np.split(images, len(self.classes)), self.classes, strict=True)
            recognised = np.concatenate([encoders.recognised(part, *named) for part, named in parts])
            seen["recognised"] = torch.from_numpy(recognised).unflatten(0, lead)
        for detector in self.detectors:
            seen[DETECTED + detector.name] = torch.from_numpy(detector.seen(images)).unflatten(1, lead)
        save_tensors(seen, out / SEEN)


class Seen(NamedTuple):
    """A job that made pictures, and the job that ran the encoders on them."""

    images: Stage
    look: Look

    def view(self, folders: Folders) -> View:
        """The pictures with their embeddings, from the parents' artifact folders `folders`."""
        return View.load(folders[self.images], folders[self.look], self.look.encoders)


class Arms(NamedTuple):
    """The arms of a comparison for one concept: the attack on the released model, the attack on the undefended model
    (None: the metric does not compare with it), and the reference pictures."""

    concept: Concept
    attacked: Seen
    undefended: Seen | None
    reference: Seen

    def views(self, folders: Folders) -> ConceptAttack:
        """The pictures of each arm, from the parents' artifact folders `folders`."""
        compared = self.undefended and self.undefended.view(folders)
        return ConceptAttack(self.concept, self.attacked.view(folders), compared, self.reference.view(folders))


class MeasureAttacked(Stage, track="diffusion", version=2):
    """Measure a metric on the pictures of an attacked model; all metrics of a cell have the same parents."""

    measure_at: tuple[int, ...]
    encoders: Mapping[str, Located | None]
    targets: tuple[Arms, ...]
    benign: tuple[Arms, ...]

    def run(self, folders: Folders, out: Path) -> None:
        """Write the metric's values."""
        targets, benign = ([arms.views(folders) for arms in side] for side in (self.targets, self.benign))
        self.measure(AttackedPictures(self.measure_at, targets, benign), _encoders(self.encoders), out)


class MeasureReleased(TargetsStage, version=2):
    """Measure a metric on a released model; all metrics of a cell have the same parents. The fields are those of
    `ReleasedData`."""

    model: Immunize
    encoders: Mapping[str, Located | None]
    drawn: Seen | None = None
    erased: Seen | None = None
    benign: Seen | None = None
    reachable: tuple[Seen, ...] = ()
    bystanders: Mapping[str, tuple[Seen, Seen]]
    compositions: Seen | None = None

    def run(self, folders: Folders, out: Path) -> None:
        """Write the metric's values."""
        model = self.load(folders[self.model])
        named = {name: getattr(self, name) for name in ("drawn", "erased", "benign", "compositions")}
        bystanders = {
            split: (mine.view(folders), undefended.view(folders))
            for split, (mine, undefended) in self.bystanders.items()
        }
        data = ReleasedData(
            **vars(self.build_targets(model, folders)),
            **{name: seen.view(folders) for name, seen in named.items() if seen is not None},
            reachable=[seen.view(folders) for seen in self.reachable],
            bystanders=bystanders,
            encoders=_encoders(self.encoders),
        )
        self.measure(model, data, out)


class SheetRow(NamedTuple):
    """Pictures of a contact sheet.

    label: text beside the pictures. images: the job that made them. place: index of the concept in pictures (concepts,
    n, …), or of the step in those (steps, n, …); None: all pictures, (n, …).
    """

    label: str
    images: Stage
    place: int | None = None


class Sheet(Stage, track="diffusion", version=2):
    """Draw a contact sheet of a task."""

    rows: tuple[SheetRow, ...]

    def run(self, folders: Folders, out: Path) -> None:
        """Save the sheet as PNG."""
        rows = [(label, _images(folders[job])[... if place is None else place]) for label, job, place in self.rows]
        contact_sheet(rows).save(out / SHEET, optimize=True)
        write_values([], out)


def _images(folder: Path) -> Images:
    """The pictures of an artifact."""
    images: Images = load_tensors(folder / IMAGES)["images"].numpy()
    return images


def _encoders(weights: Mapping[str, Located | None]) -> dict[str, encoders.Encoder]:
    """The encoders by name, with local weights where a file is given."""
    return {
        name: encoders.encoder(name, file.path, file.check()) if file else encoders.encoder(name)
        for name, file in weights.items()
    }
