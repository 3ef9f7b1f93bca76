"""By which figure a track judges a defense, said of the records themselves.

A record carries what a board needs to know of it, so that boards can be made where neither track nor plugin is
installed: `judged`, `broken`, `resolution`, `members`, `control` and `tuned` (see `records.SCHEMA`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from harness.suite import Grid, Suite

Figure = Mapping[str, str | None]
"""Which figure: `metric`, `role`, `policy`, `split`; what is not named does not matter."""


@dataclass(frozen=True)
class Protection:
    """The figure that says how well a model withstands an attack, at the attack's last measured step.

    figure: which one. better: what a defender wants of it. broken: an attack that brings it so far has succeeded
    (None: nothing attacks). resolution: what it is measured to, on the scale of its average (a picture among so many,
    rounding); a smaller difference is none. kept: figures, before any attack, of what the defense is to leave as it
    was.
    """

    figure: Figure
    better: Literal["higher", "lower"]
    broken: float | None = None
    resolution: float = 0.0
    kept: Sequence[Figure] = ()

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


def of_cell(suite: Suite, grid: Grid, at: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be said of every record of a cell, at these coordinates."""
    undefended = grid.reference is not None and grid.defenses[at["defense"]].identity == grid.reference.identity
    control = "control" if grid.defenses[at["defense"]].control else None
    return {
        "members": "+".join(grid.track.members(at["task"])),
        "control": "undefended" if undefended else control,
        "tuned": None if suite.tuning is None else suite.tuning.covers(at["task"], at.get("seed")),
    }
