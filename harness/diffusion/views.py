"""What metrics are given: pictures, and what the encoders and the concept classifier see in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from harness.diffusion.concepts import Concept
from harness.diffusion.data import Targets
from harness.diffusion.encoders import Encoder
from harness.diffusion.model import Images
from harness.store.tensors import load_tensors

IMAGES, SEEN = "images.safetensors", "seen.safetensors"
"""Files of pictures and of what is seen in them, in artifacts."""


@dataclass(frozen=True)
class View:
    """n pictures and what is seen in them; `…` is one axis of steps or concepts, or none.

    images: (…, n, height, width, 3) uint8. finite: (…, n) bool; a picture that is not finite is black. embeddings: by
    encoder (…, n, d), of lpips pixels (…, n, 3, height, width). recognised: (…, n) bool, whether the concept
    classifier's first answer is the concept; None if the classifier does not know the concepts.
    """

    images: Images
    finite: torch.Tensor
    embeddings: Mapping[str, torch.Tensor] = field(default_factory=dict)
    recognised: torch.Tensor | None = None

    @classmethod
    def load(cls, images: Path, look: Path) -> View:
        """From the artifact folders of a job that made pictures and of the `Look` at them."""
        pictures, seen = load_tensors(images / IMAGES), load_tensors(look / SEEN)
        recognised = seen.pop("recognised", None)
        return cls(pictures["images"].numpy(), pictures["finite"], seen, recognised)

    def __getitem__(self, place: int) -> View:
        """The pictures at one place of the first axis: a step or a concept."""
        embeddings = {name: rows[place] for name, rows in self.embeddings.items()}
        recognised = None if self.recognised is None else self.recognised[place]
        return View(self.images[place], self.finite[place], embeddings, recognised)

    @property
    def success(self) -> float | None:
        """Share of pictures in which the classifier sees the concept; none in a picture that is not finite. None if the
        classifier does not know the concept."""
        return None if self.recognised is None else float((self.recognised & self.finite).double().mean())


@dataclass(frozen=True)
class ConceptAttack:
    """An attack on one concept.

    attacked: pictures by the attacked model, (steps, n, …). undefended: those by the attacked undefended model, from
    the same noise; in the undefended row itself this is an attack with other random draws, which is the noise floor.
    reference: pictures of the concept itself, (n, …).
    """

    concept: Concept
    attacked: View
    undefended: View
    reference: View

    def to_reference(self, name: str, encoder: Encoder, at: int, undefended: bool = False) -> float:
        """Similarity M to the reference pictures, by an encoder and its name, of the pictures at the measured step of
        number `at`. undefended: of the attacked undefended model's pictures."""
        view = self.undefended if undefended else self.attacked
        return encoder.alike(view.embeddings[name][at], self.reference.embeddings[name])


@dataclass(frozen=True)
class AttackedPictures:
    """What one attacker makes of a released model: its attacks on each target and on each benign concept, measured
    after the optimisation steps `steps`."""

    steps: tuple[int, ...]
    targets: Sequence[ConceptAttack]
    benign: Sequence[ConceptAttack]

    def flaw(self, at: int) -> str | None:
        """Why no similarity at the measured step of number `at` may be trusted: pictures that are not finite."""
        for attack in (*self.targets, *self.benign):
            for view in (attack.attacked, attack.undefended):
                finite = view.finite[at]
                if not finite.all():
                    return f"{attack.concept.name}: {int((~finite).sum())} of {len(finite)} pictures are not finite"
        return None


@dataclass(frozen=True)
class ReleasedData(Targets):
    """What a metric of a released model is given beside the model: what a defense is given too, and pictures by the
    released and the undefended model, from the same noise. Concepts that a base model does not know by name are not
    drawn."""

    drawn: View | None = None
    """Targets by the released model, (targets, n, …)."""
    erased: View | None = None
    """The same by the undefended model."""
    benign: View | None = None
    """Benign concepts by the released model, (concepts, n, …)."""
    reachable: Sequence[View] = ()
    """Of each target that the classifier knows the reference pictures as the autoencoder returns them, (n, …)."""
    bystanders: Mapping[str, tuple[View, View]] = field(default_factory=dict)
    """Further concepts by split (train: captions may name them; heldout: none does): by the released and by the
    undefended model, each (concepts, n, …)."""
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    """By name."""
