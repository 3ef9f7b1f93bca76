"""Stages that compute nothing, for tests of keys, plans and estimates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.plugin import PluginSpec
from harness.stage import Located, Stage


class Data(BaseModel):
    """A task."""

    model_config = ConfigDict(frozen=True)

    name: str = "é"


class Adapt(Stage, track="test", version=1):
    """A stage with a field of every kind."""

    data: Data = Data()
    steps: int = 10
    weights: Located | None = None
    model: Stage | None = None
    others: tuple[Stage, ...] = ()
    sides: Mapping[str, Stage] = dataclasses.field(default_factory=dict)

    @property
    def work(self) -> float:
        """Its steps."""
        return self.steps


class Second(Stage, track="test", version=2):
    """Another stage."""

    steps: int = 10


def spec(**changes: Any) -> PluginSpec:
    """An attacker, with other fields."""
    fields = {
        "kind": "attacker",
        "name": "adam",
        "params": {"lr": 0.01},
        "source": "0" * 64,
        "call": "Adam()",
        "module": "attackers.adam",
        "attribute": "Adam",
    }
    return PluginSpec(**fields | changes)
