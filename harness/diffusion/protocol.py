"""How a grid of this track measures."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ENCODER_TITLES = {"clip": "C", "dino": "D", "lpips": "L"}
"""How the papers write these encoders' metrics; no other encoder may be called so."""


class Erasure(BaseModel):
    """How a concept is erased (see `erase`). The defaults are UCE's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strength: float = Field(1.0, gt=0, description="e: weight of the rows to erase")
    keep: float = Field(1.0, gt=0, description="p: weight of the rows to keep")
    ridge: float = Field(0.5, gt=0, description="λ: weight of the weights as they were")
    gate: float = Field(0.9, ge=0, le=1, description="the erased base must draw its other concepts at least this "
                        "well, as a share of what it did before (of those that the base can judge)")  # fmt: skip


class Sampling(BaseModel):
    """How pictures are sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: Literal["ddim", "dpm"] = Field("ddim", description="DDIM or DPM-Solver++")
    steps: int = Field(20, ge=1)
    guidance: float = Field(3.0, ge=0, description="weight of classifier-free guidance; 1 is none")


class Protocol(BaseModel):
    """Budget, measuring steps, pictures, encoders. The defaults fit the small base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str = Field("none", description="the defense that stands for no defense")
    steps: int = Field(100, ge=1, description="budget of every attacker")
    measure_at: tuple[int, ...] = Field((10, 25, 50, 100), description="steps to sample pictures at; the table has the "
                                       "last")  # fmt: skip
    training_images: int = Field(20, ge=1, description="pictures an attacker gets of a concept the base makes")
    images: int = Field(20, ge=1, description="pictures sampled for each figure")
    kept_images: int = Field(4, ge=1, description="pictures sampled of each concept that is only to be kept")
    sheets: int = Field(1, ge=0, description="how many groups, the first ones, get a contact sheet")
    sampling: Sampling = Sampling()
    erasure: Erasure = Erasure()
    encoders: dict[str, str | None] = Field(
        {"contrastive": None, "classifier": None, "efficientnet_lite0": None},
        description="by name, with the path of local weights where wanted",
    )
    save_attacked: bool = Field(False, description="keep the attacked weights, in their ecosystem's format")

    @field_validator("encoders", mode="before")
    @classmethod
    def _named(cls, encoders: Any) -> Any:
        return dict.fromkeys(encoders) if isinstance(encoders, list) else encoders

    @model_validator(mode="after")
    def _inside(self) -> Protocol:
        if not self.measure_at or sorted(set(self.measure_at)) != list(self.measure_at):
            raise ValueError("measure_at must rise from step to step")
        if self.measure_at[0] < 1 or self.measure_at[-1] > self.steps:
            raise ValueError(f"measure_at must lie within 1 … steps = {self.steps}")
        if not self.encoders:
            raise ValueError("encoders is empty")
        return self
