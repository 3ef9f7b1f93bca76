"""Metrics: definition and measurement of quantities in one class, and the values that a metric returns.

A metric is a plugin. It measures a released model before any attack, or an attacked model. Each metric of each cell is
a separate job, so a new metric changes no other key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError

from harness.errors import PluginError, describe
from harness.files import write_text
from harness.labels import FrozenModel, Label, Number, Text
from harness.plugin import Plugin

VALUES = "values.json"
"""File of a measuring job's artifact: a list of values."""
MOST_VALUES = 10**5
"""Largest number of values of one job."""

Value = dict[str, Any]
"""One measured number: `metric`, `value` (None: undefined) and, where they apply, `concept`, `role`, `variant`,
`split`, `step`, `flag` and `note`."""


class Quantity(FrozenModel):
    """Definition of one quantity that a metric measures, with its unit and its limits."""

    name: Label = Field(description="as in records")
    title: Text = Field(description="heading in tables: the papers' spelling")
    unit: Text = Field("", description="unit of the values; empty: none")
    better: Literal["higher", "lower", ""] = Field("", description="direction that a defender wants; empty: neither")
    scale: Literal["linear", "log"] = Field("linear", description="scale on which values are averaged")
    description: Text = Field(description="one line")
    formula: Text = Field("", description="how it is computed, with its source")
    variant: Text = Field("", description="meaning of the columns variant and split, where values use them")
    limits: Text = Field("", description="what the value does not show")

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Name, unit, direction and scale: what decides how values are read and averaged. The rest is text."""
        return self.name, self.unit, self.better, self.scale


class Metric(Plugin):
    """Measures one or more quantities of a model.

    The track documents what `model` and `data` of `measure` are. For a released model `data` holds what a defense
    receives; for an attacked model they hold the model or its outputs at each measured step, together with those of
    the attacked undefended model.
    """

    kind: ClassVar[str] = "metric"
    method: ClassVar[str] = "measure"
    quantities: ClassVar[tuple[Quantity, ...]]
    """The quantities that `measure` yields values of."""
    measures: ClassVar[Literal["released", "attacked"]] = "released"
    """The model that the metric measures."""

    def measure(self, model: Any, data: Any) -> Iterator[Value]:
        """Yield values (see `value`) of `model`, given the track's `data`; must change neither."""
        raise NotImplementedError(f"{type(self).__name__} has no method measure(self, model, data)")

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
        """Make one value for `measure` to yield.

        number: the measured number; None if it is undefined. metric: name of the quantity; optional for a metric with
        one quantity. role: harmful or benign. concept: one part of the task; None for the whole task. variant: encoder,
        κ policy, … split: train or heldout. step: optimisation steps of the attack. flag: name of a flag (`immunebench
        list flags`). note: remark for readers. Raises `ValueError` if `metric` names no quantity of this metric.
        """
        names = [quantity.name for quantity in self.quantities]
        name = metric or names[0]
        if name not in names or (metric is None and len(names) > 1):
            raise ValueError(f"{type(self).__name__} measures {', '.join(names)}: name one of them, not {metric!r}")
        places = {"role": role, "concept": concept, "variant": variant, "split": split, "step": step}
        coordinates = {**places, "flag": flag, "note": note}
        given = {key: coordinate for key, coordinate in coordinates.items() if coordinate is not None}
        return {"metric": name, "value": number, **given}


class _Fields(FrozenModel):
    """The fields of a value and their types."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    metric: Label
    value: Number | None
    concept: Label | None = None
    role: Label | None = None
    variant: Label | None = None
    split: Label | None = None
    step: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    flag: Label | None = None
    note: Text | None = None


def check_value(value: Any) -> None:
    """Raise pydantic's `ValidationError` if `value` is no `Value`."""
    _Fields.model_validate(value)


def write_values(values: Iterable[Value], out: Path, quantities: Iterable[Quantity] | None = None) -> None:
    """Write the `values` of a measuring job into its artifact folder `out`, which may also hold pictures (`*.png`).

    quantities: those that the values may be of; None: any. Raises `PluginError` if one of the values is no `Value` or
    of another quantity, if two of them have the same coordinates, or if there are more than `MOST_VALUES`.
    """
    checked: list[Value] = []
    places: set[str] = set()
    names = None if quantities is None else {quantity.name for quantity in quantities}
    try:
        for value in values:
            if not isinstance(value, Mapping):
                raise PluginError(f"a metric yielded {type(value).__name__}: yield self.value(number, …)")
            fields = _Fields.model_validate(value)
            place = fields.model_dump_json(exclude={"value", "flag", "note"}, exclude_none=True)
            if names is not None and fields.metric not in names:
                raise PluginError(f"a metric yielded a value of '{fields.metric}', which its quantities do not define")
            if place in places:
                raise PluginError(f"a metric yielded two values at the same coordinates: {place}")
            places.add(place)
            if len(places) > MOST_VALUES:
                raise PluginError(f"a metric yielded more than {MOST_VALUES} values")
            checked.append({**value, "value": fields.value})
    except ValidationError as error:
        raise PluginError(f"a metric yielded an invalid value: {describe(error)}") from None
    write_text(out / VALUES, dump_values(checked))


def dump_values(values: list[Value]) -> str:
    """The text of a file `VALUES` with these values."""
    return json.dumps(values, allow_nan=False)


def read_values(artifact: Path) -> list[Value]:
    """The values in the folder `artifact`."""
    values: list[Value] = json.loads((artifact / VALUES).read_text(encoding="utf-8"))
    return values
