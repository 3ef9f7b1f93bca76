"""The search space of an attacker: a range or choices beside a field.

lr: float = Field(1e-3, json_schema_extra={"search": {"low": 1e-4, "high": 0.1, "log": True}})
rank: int = Field(4, json_schema_extra={"search": {"choices": [4, 16, 64]}})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from harness.errors import UsageError, describe
from harness.labels import FrozenModel
from harness.plugin import Plugin


class Range(FrozenModel):
    """The values of one field that a search tries: a range of numbers, or choices."""

    low: float | int | None = Field(None, description="smallest number")
    high: float | int | None = Field(None, description="largest number")
    log: bool = Field(False, description="whether the numbers are drawn on a log scale")
    choices: list[Any] = Field([], description="values instead of a range")

    @model_validator(mode="after")
    def _one_form(self) -> Range:
        ranged = self.low is not None and self.high is not None
        if bool(self.choices) == ranged or (ranged and not self.low < self.high):  # type: ignore[operator]
            raise ValueError("give low and high, low below high, or choices")
        return self

    def contains(self, value: Any) -> bool:
        """Whether a search can try `value`."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and float(self.low or 0) <= value <= float(self.high or 0)

    def suggest(self, trial: Any, name: str) -> Any:
        """A value of the field `name` in an optuna trial."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low or 0), float(self.high or 0), log=self.log)


def search_space(plugin: type[Plugin]) -> Mapping[str, Range]:
    """The ranges of a plugin's fields, by field; empty if it declares none. Raises `UsageError` for a wrong range."""
    ranges = {}
    for name, info in plugin.__pydantic_fields__.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and "search" in extra:
            try:
                ranges[name] = Range.model_validate(extra["search"])
            except ValidationError as error:
                raise UsageError(f"{plugin.__name__}.{name}: the search range is wrong: {describe(error)}") from None
    return ranges
