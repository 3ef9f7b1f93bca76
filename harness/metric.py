"""Metrics: what a number is and how it is measured, in one class, and the values that it leaves.

A metric is a plugin. It measures a released model before any attack, or an attacked one; each metric of each cell is
a job of its own, so a new metric changes no other key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import PluginError, describe
from harness.labels import Label, Text
from harness.plugin import Plugin

VALUES = "values.json"
"""What a measuring job leaves in its artifact: a list of values."""

Value = dict[str, Any]
"""One measured number: `metric`, `value` (None: undefined here) and, where they apply, `concept`, `role`, `variant`,
`split`, `step`, `flag` and `note`."""


class Quantity(BaseModel):
    """What a metric's number is, and what it cannot tell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Label = Field(description="as in records")
    title: Text = Field(description="in tables: the papers' spelling")
    unit: Text = ""
    better: Literal["higher", "lower", ""] = Field("", description="which a defender wants; empty: neither")
    scale: Literal["linear", "log"] = Field("linear", description="scale on which values are averaged")
    description: Text = Field(description="one line")
    formula: Text = Field("", description="how it is computed, with its source")
    variant: Text = Field("", description="what the columns variant and split tell apart, if anything")
    limits: Text = Field("", description="what it cannot tell")


class Metric(Plugin):
    """Measures one or more quantities of a model.

    `model` and `data` of `measure` are what the track documents: for a released model what a defense is given too, for
    an attacked one the model or its outputs at each measured step, beside those of the attacked undefended model.
    """

    kind: ClassVar[str] = "metric"
    method: ClassVar[str] = "measure"
    quantities: ClassVar[tuple[Quantity, ...]]
    """What its values are."""
    measures: ClassVar[Literal["released", "attacked"]] = "released"
    """Which model it is measured on."""

    def measure(self, model: Any, data: Any) -> Iterator[Value]:
        """Yield values (see `value`); the model is left unchanged."""
        raise NotImplementedError

    def value(
        self,
        number: float | None,
        metric: str | None = None,
        *,
        role: str | None = None,
        concept: str | None = None,
        variant: str | None = None,
        split: str | None = None,
        step: int | None = None,
        flag: str | None = None,
        note: str | None = None,
    ) -> Value:
        """One value.

        number: None if it is undefined here. metric: the quantity's name; may be left out where there is one quantity.
        role: harmful or benign. concept: one part of the task; None for the whole. variant: encoder, κ policy, … split:
        train or heldout. step: optimisation steps of the attack. flag: a flag's name (`immunebench list flags`). note:
        text for people. Raises `ValueError` for a name that is no quantity of this metric.
        """
        names = [quantity.name for quantity in self.quantities]
        name = metric or names[0]
        if name not in names or (metric is None and len(names) > 1):
            raise ValueError(f"{type(self).__name__} measures {', '.join(names)}: name one of them, not {metric!r}")
        places = {"role": role, "concept": concept, "variant": variant, "split": split, "step": step}
        coordinates = {**places, "flag": flag, "note": note}
        given = {key: coordinate for key, coordinate in coordinates.items() if coordinate is not None}
        return {"metric": name, "value": number, **given}


class _Fields(BaseModel):
    """The fields of a value and their types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    metric: Label
    value: float | None
    concept: Label | None = None
    role: Label | None = None
    variant: Label | None = None
    split: Label | None = None
    step: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    flag: Label | None = None
    note: Text | None = None


def check_value(value: Any) -> None:
    """Raise pydantic's `ValidationError` if this is no `Value`."""
    _Fields.model_validate(value)


def write_values(values: Iterable[Value], out: Path) -> None:
    """Leave a measuring job's values in its artifact folder `out`; pictures (`*.png`) may lie beside them. Raises
    `PluginError` for what is no value."""
    checked = list(values)
    try:
        for value in checked:
            check_value(value)
    except ValidationError as error:
        raise PluginError(f"a metric gave what is no value: {describe(error)}") from None
    (out / VALUES).write_text(dump_values(checked))


def dump_values(values: list[Value]) -> str:
    """The text of that file."""
    return json.dumps(values, allow_nan=False)


def read_values(artifact: Path) -> list[Value]:
    """The values in an artifact folder."""
    values: list[Value] = json.loads((artifact / VALUES).read_text())
    return values
