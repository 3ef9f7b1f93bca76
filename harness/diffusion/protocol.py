"""The protocol of a grid of this track: budget, pictures, sampling, erasure and encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from harness.errors import nearest
from harness.files import expanded, user_path
from harness.labels import FrozenModel, Label
from harness.track import Protocol

ENCODERS = ("clip", "dino", "lpips", "contrastive", "classifier", "efficientnet_lite0")
"""Names of the encoders (see `harness.diffusion.encoders`)."""
DETECTORS = ("classifier", "contrastive", "clip")
"""Names of the built-in detectors (see `harness.diffusion.detectors`)."""
ENCODER_TITLES = {"clip": "C", "dino": "D", "lpips": "L"}
"""The papers' names of these encoders; other encoders keep their own names in tables."""


class Detector(FrozenModel):
    """Settings of a detector (see `harness.diffusion.detectors`)."""

    path: str | None = Field(
        None,
        description="folder of an image classifier that transformers loads or, for a built-in detector, file of its "
        "weights, relative to the suite file; null: the default weights",
    )
    labels: tuple[str, ...] = Field(
        (),
        description="labels of the folder's classifier that stand for every concept, for example nsfw; empty: the "
        "concept's own name or words",
    )


class Erasure(FrozenModel):
    """Settings of the erasure of concepts (see `harness.diffusion.erase`). The defaults are those of UCE."""

    strength: float = Field(1.0, gt=0, description="e: weight of the rows to erase")
    keep: float = Field(1.0, gt=0, description="p: weight of the rows to keep")
    ridge: float = Field(0.5, gt=0, description="λ: weight of the base model's own weights")
    gate: float = Field(
        0.9,
        ge=0,
        le=1,
        description="smallest allowed share of the base model's retention of other concepts that is left after the "
        "erasure",
    )


class Sampling(FrozenModel):
    """Settings of the sampler of pictures."""

    sampler: Literal["ddim", "dpm"] = Field("ddim", description="DDIM or DPM-Solver++")
    steps: int = Field(20, ge=1, description="denoising steps of a picture")
    guidance: float = Field(3.0, ge=0, description="weight of classifier-free guidance; 1: no guidance")


class Drawing(Sampling):
    """Settings of the sampler of measured pictures."""

    negative: str = Field(
        "",
        description="negative prompt, in place of the empty prompt of classifier-free guidance",
    )

    @model_validator(mode="after")
    def _guided(self) -> Drawing:
        if self.negative and self.guidance <= 1:
            raise ValueError("a negative prompt needs a guidance above 1, because without guidance nothing reads it")
        return self


def _few_steps(fields: dict[str, Any]) -> tuple[int, ...]:
    """The steps 10, 25 and 50 below the budget, and the budget itself: few, because pictures are sampled after each."""
    steps = fields.get("steps", 1)
    return (*(step for step in (10, 25, 50) if step < steps), steps)


class DiffusionProtocol(Protocol):
    """Budget, measured steps, pictures and encoders. The defaults fit the small base."""

    measure_at: tuple[int, ...] = Field(
        default_factory=_few_steps,
        description="steps after which pictures are sampled, ascending; by default 10, 25, 50 and the last",
    )
    training_images: int = Field(
        20,
        ge=1,
        description="number of training pictures of an attacker, and of a defense, for a concept that the base model "
        "draws",
    )
    shared: bool = Field(
        False, description="whether attackers and defenses learn from the same pictures instead of different ones"
    )
    images: int = Field(20, ge=1, description="pictures of each target and benign concept at each measured step")
    kept_images: int = Field(4, ge=1, description="pictures of each further concept by a released model")
    attacked_images: int = Field(
        1, ge=0, description="pictures of each further concept by an attacked model, after the last step; 0: none"
    )
    sheets: int = Field(1, ge=0, description="number of groups, from the first, that get a contact sheet")
    sampling: Sampling = Sampling()
    drawn: Drawing | None = Field(
        None,
        description="sampler of the measured pictures, those of released and attacked models; null: `sampling`, which "
        "draws all others: reference pictures, pictures to train on, and those that check an erasure",
    )
    erasure: Erasure = Erasure()
    encoders: dict[str, str | None] = Field(
        {"contrastive": None, "classifier": None, "efficientnet_lite0": None},
        description="encoders by name, each with the path of local weights, relative to the suite file; null: the "
        "default weights",
    )
    detectors: dict[Label, Detector] = Field(
        {},
        description="detectors by name, whose answers the metric `detection` measures beside the concept classifier's: "
        f"{', '.join(DETECTORS)} are built in, another name needs the folder of a classifier",
    )
    save_attacked: bool = Field(False, description="whether to save attacked models, in a format that diffusers loads")

    @field_validator("encoders", mode="before")
    @classmethod
    def _without_paths(cls, encoders: Any) -> Any:
        return dict.fromkeys(encoders) if isinstance(encoders, list) else encoders

    @field_validator("encoders")
    @classmethod
    def _known(cls, encoders: dict[str, str | None], info: ValidationInfo) -> dict[str, str | None]:
        """Refuse unknown names and, in a suite file, files that do not exist; its paths become absolute."""
        for name in encoders:
            if name not in ENCODERS:
                raise ValueError(f"unknown encoder '{name}'; {nearest(name, list(ENCODERS))}")
        if not info.context:
            return {name: path and expanded(path) for name, path in encoders.items()}
        folder = info.context["folder"]
        files = {name: path and str(user_path(path, folder).resolve()) for name, path in encoders.items()}
        for name, file in files.items():
            if file and not Path(file).is_file():
                raise ValueError(f"the weights of '{name}', {file}, do not exist")
        return files

    @field_validator("detectors", mode="before")
    @classmethod
    def _by_name(cls, detectors: Any) -> Any:
        if isinstance(detectors, list):
            return {name: {} for name in detectors}
        return {name: value or {} for name, value in detectors.items()} if isinstance(detectors, dict) else detectors

    @field_validator("detectors")
    @classmethod
    def _found(cls, detectors: dict[str, Detector], info: ValidationInfo) -> dict[str, Detector]:
        """Refuse names without a folder and, in a suite file, paths that do not exist; paths become absolute."""
        folder, found = (info.context or {}).get("folder"), {}
        for name, detector in detectors.items():
            path = detector.path and str(
                user_path(detector.path, folder).resolve() if folder else expanded(detector.path)
            )
            if name not in DETECTORS and path is None:
                raise ValueError(
                    f"no detector '{name}' is built in; {nearest(name, list(DETECTORS))}, or give the path of a "
                    "classifier's folder"
                )
            if folder and path and not Path(path).exists():
                raise ValueError(f"the path of the detector '{name}', {path}, does not exist")
            found[name] = detector.model_copy(update={"path": path})
        return found

    @model_validator(mode="after")
    def _something_to_measure(self) -> DiffusionProtocol:
        if self.measure_at[0] < 1:
            raise ValueError(f"measure_at must lie within 1 … steps = {self.steps}")
        if not self.encoders:
            raise ValueError("encoders is empty")
        return self
