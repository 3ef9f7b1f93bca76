"""The data that metrics receive: pictures, with their embeddings and the answers of the concept classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from harness.diffusion.concepts import Concept
from harness.diffusion.data import Targets
from harness.diffusion.encoders import Encoder
from harness.diffusion.model import Images
from harness.errors import PluginError
from harness.store.tensors import load_tensors

IMAGES, SEEN = "images.safetensors", "seen.safetensors"
"""Files in artifacts: pictures, and their embeddings with the answers of the concept classifier."""
DETECTED = "detected "
"""Begin of the names of detectors' answers in the file of embeddings."""


@dataclass(frozen=True)
class View:
    """n pictures with their embeddings and the answers of the concept classifier; `…` is one axis of steps or concepts,
    or no axis.

    images: (…, n, height, width, 3) uint8. finite: (…, n) bool; a picture that is not finite is black. embeddings: by
    encoder (…, n, d), for lpips the images. recognised: (…, n) bool, whether the classifier's top
    class is the concept; None if the classifier does not know the concepts. kept: (concepts, n) bool, whether it sees
    each concept to keep in pictures by the attacked model after its last step; None if there are none. detected: by
    detector (concepts, …, n) bool, whether it sees each of the task's targets and benign concepts, in this order.
    """

    images: Images
    finite: torch.Tensor
    embeddings: Mapping[str, torch.Tensor] = field(default_factory=dict)
    recognised: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    detected: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def load(cls, images: Path, look: Path, encoders: Iterable[str]) -> View:
        """Load pictures and embeddings. images: artifact folder of a job that made pictures. look: artifact folder of
        the `Look` at them. encoders: names of its encoders."""
        pictures, seen = load_tensors(images / IMAGES), load_tensors(look / SEEN)
        recognised = seen.pop("recognised", None)
        detected = {name.removeprefix(DETECTED): seen[name] for name in seen if name.startswith(DETECTED)}
        embeddings = {name: seen.get(name, pictures["images"]) for name in encoders}
        finite, kept = pictures["finite"], pictures.get("kept")
        return cls(pictures["images"].numpy(), finite, embeddings, recognised, kept, detected)

    def __getitem__(self, place: int) -> View:
        """The pictures of one step or concept, the one at index `place` of the first axis."""
        embeddings = {name: rows[place] for name, rows in self.embeddings.items()}
        recognised = None if self.recognised is None else self.recognised[place]
        detected = {name: seen[:, place] for name, seen in self.detected.items()}
        return View(self.images[place], self.finite[place], embeddings, recognised, detected=detected)

    @property
    def success(self) -> float | None:
        """Share of pictures in which the classifier sees the concept; a picture that is not finite does not count as
        one. None if the classifier does not know the concept."""
        return None if self.recognised is None else float((self.recognised & self.finite).double().mean())


@dataclass(frozen=True)
class ConceptAttack:
    """An attack on one concept.

    concept: the concept. attacked: pictures by the attacked model, (steps, n, …). compared, undefended: pictures by the
    attacked undefended model from the same noise; in the undefended row itself this is an attack with other random
    draws, which gives the noise floor. reference: pictures of the concept itself, (n, …).
    """

    concept: Concept
    attacked: View
    compared: View | None
    reference: View

    @property
    def undefended(self) -> View:
        """See above; raises `PluginError` for a metric with `compared = False`."""
        if self.compared is None:
            raise PluginError("the metric says compared = False, so it cannot read pictures by the undefended model")
        return self.compared

    def to_reference(self, name: str, encoder: Encoder, at: int, undefended: bool = False) -> float:
        """Similarity M of pictures at one measured step to the reference pictures.

        name, encoder: the encoder with its name. at: index of the measured step. undefended: whether to take the
        attacked undefended model's pictures instead of the attacked model's.
        """
        view = self.undefended if undefended else self.attacked
        return encoder.alike(view.embeddings[name][at], self.reference.embeddings[name])


@dataclass(frozen=True)
class AttackedPictures:
    """The attacks of one attacker on a released model.

    steps: optimisation steps after which the attacks were measured. targets, benign: the attacks on each target and on
    each benign concept.
    """

    steps: tuple[int, ...]
    targets: Sequence[ConceptAttack]
    benign: Sequence[ConceptAttack]

    def flaw(self, at: int) -> str | None:
        """Why similarities at the measured step with index `at` are invalid (pictures that are not finite); None if
        they are valid."""
        for attack in (*self.targets, *self.benign):
            for view in filter(None, (attack.attacked, attack.compared)):
                finite = view.finite[at]
                if not finite.all():
                    return f"{attack.concept.name}: {int((~finite).sum())} of {len(finite)} pictures are not finite"
        return None


@dataclass(frozen=True)
class ReleasedData(Targets):
    """The data that a metric of a released model receives: all that a defense receives, and pictures by the released
    and the undefended model from the same noise. There are no pictures of concepts that a base model does not know by
    name."""

    drawn: View | None = None
    """Pictures of the targets by the released model, (targets, n, …)."""
    erased: View | None = None
    """Pictures of the targets by the undefended model, (targets, n, …)."""
    benign: View | None = None
    """Pictures of the benign concepts by the released model, (concepts, n, …)."""
    reachable: Sequence[View] = ()
    """For each target that the classifier knows, the reference pictures encoded and decoded, (n, …)."""
    bystanders: Mapping[str, tuple[View, View]] = field(default_factory=dict)
    """By split (train: captions may name the concepts; heldout: no caption names them), pictures of further concepts by
    the released and by the undefended model, each (concepts, n, …)."""
    compositions: View | None = None
    """Pictures of concepts to keep in compositions (see `Group.compositions`) by the released model, (concepts, n, …),
    without embeddings."""
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    """The encoders by name."""
