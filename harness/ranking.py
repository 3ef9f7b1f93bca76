"""Which value ranks the defenses of a grid, and which values tell whether a model still does what it should."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.labels import Label

Selector = dict[Literal["metric", "role", "variant", "split"], Label | None]
"""Which values are meant: by coordinates of records; None: the coordinate is empty; what is not named may be
anything."""


class Ranking(BaseModel):
    """The value that says how well a model withstands an attack, at the attack's last measured step; of a grid without
    attackers, a value of the released model."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: Selector
    better: Literal["higher", "lower"] = Field(description="which a defender wants")
    broken: float | None = Field(None, description="an attack that brings the value this far has succeeded; null: no "
                                 "attack is judged")  # fmt: skip
    resolution: float = Field(
        0.0, ge=0, description="smallest difference that counts, on the scale on which the value is averaged"
    )
    retention: list[Selector] = Field([], description="values, before any attack, of what is to be kept")


def selects(selector: Selector, record: Mapping[str, Any]) -> bool:
    """Whether a selector means this record, which is of a whole task."""
    return record.get("concept") is None and all(record.get(name) == wanted for name, wanted in selector.items())
