"""Which value ranks the defenses of a grid, and which values measure a model's retention."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from harness.labels import FrozenModel, Label

Selector = dict[Literal["metric", "role", "variant", "split"], Label | None]
"""Selects values by coordinates of records. None: the coordinate must be empty; a coordinate that is left out may have
any value."""


MEAN = "mean"
"""Stands on boards for the mean over a grid's attackers, so no attacker can have this label."""


class Ranking(FrozenModel):
    """The value by which the defenses of a grid are ranked: it measures how well a model withstands an attack, at the
    last measured step. In a grid without attackers it is a value of the released model."""

    model_config = ConfigDict(allow_inf_nan=False)

    value: Selector = Field(description="the value that ranks")
    better: Literal["higher", "lower"] = Field(description="direction that a defender wants")
    broken: float | None = Field(
        None, description="an attack succeeds when the value reaches this threshold; null: there is no threshold"
    )
    resolution: float = Field(
        0.0, ge=0, description="smallest difference that counts, on the scale on which the value is averaged"
    )
    retention: list[Selector] = Field([], description="values of retention, before any attack")
