"""By which figure a grid judges a defense, said of the records themselves.

A record carries what a board needs to know of it, so that boards can be made where neither track nor plugin is
installed: `judged`, `broken`, `resolution`, `members`, `control` and `tuned` (see `records.SCHEMA`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Plan
    from harness.suite import Grid, Suite

Figure = dict[str, str | None]
"""Which figure: `metric`, `role`, `policy`, `split`; what is not named does not matter."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Protection(_Part):
    """The figure that says how well a model withstands an attack, at the attack's last measured step."""

    figure: Figure
    better: Literal["higher", "lower"] = Field(description="what a defender wants of it")
    broken: float | None = Field(None, description="an attack that brings it so far has succeeded; null: none attacks")
    resolution: float = Field(0.0, ge=0, description="what it is measured to, on the scale of its average (a picture "
                              "among so many, rounding); a smaller difference is none")  # fmt: skip
    kept: list[Figure] = Field([], description="figures, before any attack, of what is to be left as it was")

    def marks(self, cell: Sequence[Mapping[str, Any]], attacked: bool) -> Iterator[dict[str, Any]]:
        """What is to be added to each figure of one cell; `attacked`: in a grid with attackers."""
        steps = [row.get("step") for row in cell if _is(row, self.figure)]
        last = max((step for step in steps if step is not None), default=None)
        for row in cell:
            if _is(row, self.figure) and row.get("step") == last and attacked == bool(row.get("attacker")):
                yield {"judged": self.better, "broken": self.broken, "resolution": self.resolution}
            elif not row.get("attacker") and any(_is(row, figure) for figure in self.kept):
                yield {"judged": "kept"}
            else:
                yield {}

    def missing(self, at: Mapping[str, Any], attacked: bool) -> dict[str, Any]:
        """What is to be said of a cell that failed: whether its figure would have been among those that judge."""
        due = attacked == bool(at.get("attacker"))
        due = due and all(at.get(name) in (None, wanted) for name, wanted in self.figure.items())
        return {"judged": self.better, "broken": self.broken, "resolution": self.resolution} if due else {}


def _is(row: Mapping[str, Any], figure: Figure) -> bool:
    return row.get("concept") is None and all(row.get(name) == wanted for name, wanted in figure.items())


def members(records: pd.DataFrame) -> dict[str, list[str]]:
    """By task, what it is made of, as the records say (`Judging.of_cell`)."""
    return {str(task): str(of).split("+") for task, of in records.groupby("task")["members"].first().dropna().items()}


class Tuning(_Part):
    """On what a suite's settings were chosen."""

    seeds: list[int] = Field(description="empty: on none, they are the papers' or the plugins' defaults")
    tasks: list[str] = Field([], description="by label; empty: on all of the suite's")

    def covers(self, task: str, seed: int | None) -> bool:
        """Whether settings were chosen on this task and seed. Where nothing is random (None) the task alone tells."""
        if seed is None:
            return task in self.tasks
        return seed in self.seeds and (not self.tasks or task in self.tasks)


class Judging(_Part):
    """What the records of a grid say of how they are judged."""

    protection: Protection | None
    attackers: list[str]
    controls: dict[str, Literal["undefended", "control"]] = Field(description="by defense; the others are on trial")
    members: dict[str, list[str]] = Field(description="by task, what it is made of")
    tuning: Tuning | None

    def of_cell(self, at: Mapping[str, Any]) -> dict[str, Any]:
        """What is to be said of every record of a cell, at these coordinates."""
        return {
            "members": "+".join(self.members.get(at["task"], [])),
            "control": self.controls.get(at["defense"]),
            "tuned": None if self.tuning is None else self.tuning.covers(at["task"], at.get("seed")),
        }

    def marks(self, cell: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """What is to be added to each figure of one cell."""
        by = self._judge(cell[0]) if cell else None
        return by.marks(cell, bool(self.attackers)) if by else iter([{}] * len(cell))

    def missing(self, at: Mapping[str, Any]) -> dict[str, Any]:
        """What is to be said of a cell that failed."""
        by = self._judge(at)
        return by.missing(at, bool(self.attackers)) if by else {}

    def _judge(self, at: Mapping[str, Any]) -> Protection | None:
        """A mean over attackers is no attacker, so it judges nothing."""
        return self.protection if at.get("attacker") in (None, *self.attackers) else None


def judging(plan: Plan) -> dict[str, Judging]:
    """How the figures of a plan's grids are judged, by grid."""
    tasks: dict[str, dict[str, None]] = {grid.name: {} for grid in plan.suite.grids}
    for cell in plan.cells:
        tasks[cell.coordinates["grid"]][cell.coordinates["task"]] = None
    return {grid.name: _judging(plan.suite, grid, tasks[grid.name]) for grid in plan.suite.grids}


def _judging(suite: Suite, grid: Grid, tasks: Iterable[str]) -> Judging:
    controls: dict[str, Literal["undefended", "control"]] = {}
    for label, defense in grid.defenses.items():
        if grid.reference is not None and defense.identity == grid.reference.identity:
            controls[label] = "undefended"
        elif defense.control:
            controls[label] = "control"
    return Judging(
        protection=grid.track.protection(grid),
        attackers=list(grid.attackers),
        controls=controls,
        members={task: list(grid.track.members(task)) for task in tasks},
        tuning=suite.tuning,
    )
