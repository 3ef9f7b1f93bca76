"""What ranks the defenses of a grid: a value of attacks, values of retention, and threat models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import ConfigDict, Field

from harness.labels import FrozenModel, Label, Text

Selector = dict[Literal["metric", "role", "variant", "split"], Label | None]
"""Selects values by coordinates of records. None: the coordinate must be empty; a coordinate that is left out may have
any value."""


MEAN = "mean"
"""Stands on boards for the mean over a grid's attackers, so no attacker can have this label."""


class Outcome(FrozenModel):
    """A value that says how far an attack has got."""

    model_config = ConfigDict(allow_inf_nan=False)

    value: Selector = Field(description="the value")
    better: Literal["higher", "lower"] = Field(description="direction that a defender wants")
    start: float | None = Field(
        None,
        description="value of a model that has learnt nothing of the harmful task; null: 0, or 1 if higher is better",
    )
    broken: float | None = Field(
        None,
        description="an attacker that does not reach this value on the undefended model is weak; null: none is",
    )
    succeeds: bool = Field(
        True, description="whether a value tells that an attack has succeeded; if not, there is no cost to break"
    )
    chosen: bool = Field(
        False,
        description="the value at a step is of the step that the attacker has chosen by then, without seeing the value"
        "; else it keeps the best",
    )
    resolution: float = Field(
        0.0, ge=0, description="smallest difference that counts, on the scale on which the value is averaged"
    )

    @property
    def origin(self) -> float:
        """The value of a model that has learnt nothing of the harmful task."""
        return float(self.better == "higher") if self.start is None else self.start


class Ranking(Outcome):
    """The value by which the defenses of a grid are ranked: it measures how well a model withstands an attack, at the
    last measured step. In a grid without attackers it is a value of the released model."""

    retention: list[Selector] = Field([], description="values of retention, before any attack")
    adapted: list[Selector] = Field(
        [], description="values of retention after fine-tuning on a benign task, at an attacker's last measured step"
    )
    retained: list[Selector] = Field(
        [],
        description="values of retention of a released model, and of an attacked model at its last measured step, of "
        "what the attack is not about",
    )
    optimum: list[Selector] = Field(
        [], description="values that an attack on a released model reaches with an unlimited budget"
    )
    predictors: list[Selector] = Field(
        [], description="values of released models that papers report as measures of protection"
    )


class ThreatModel(FrozenModel):
    """A set of attackers with what they know and may spend. It reads measured values, so it changes no key."""

    attackers: list[Label] = Field(min_length=1, description="labels of attacker rows")
    knows: Text = Field("", description="what these attackers know and change")
    unit: Literal["steps", "gradients", "samples", "seconds"] = Field(
        "steps", description="what the cost to break is counted in"
    )
    budget: float | None = Field(
        None,
        gt=0,
        description="what an attack may spend, in that unit; by default, and at most, as much as each attacker spends",
    )
    share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="an attack succeeds with this share of the best that is reached on the undefended model",
    )
    evidence: bool = Field(
        False, description="one line instead of a column, for attackers that break every defense by a theorem"
    )
    outcome: Outcome | None = Field(
        None, description="value that says how far an attack has got; null: the one that ranks"
    )


ALL_ATTACKERS, OTHER_ATTACKERS = "all attackers", "other attackers"
"""Names of the threat model of the attackers that no threat model of a grid names: where there is none, and beside
others."""


def covering(models: Mapping[str, ThreatModel], attackers: Collection[str]) -> dict[str, ThreatModel]:
    """The threat models of a grid: those of `models` with the attackers that are left, and one of all further ones.

    models: by name; those called `ALL_ATTACKERS` or `OTHER_ATTACKERS` are replaced. attackers: the grid's.
    """
    covered: dict[str, ThreatModel] = {}
    for name, model in models.items():
        left = [label for label in dict.fromkeys(model.attackers) if label in attackers]
        if left and name not in (ALL_ATTACKERS, OTHER_ATTACKERS):
            covered[name] = model.model_copy(update={"attackers": left})
    named = {label for model in covered.values() for label in model.attackers}
    if further := [label for label in attackers if label not in named]:
        covered[OTHER_ATTACKERS if covered else ALL_ATTACKERS] = ThreatModel(attackers=further)
    return covered
