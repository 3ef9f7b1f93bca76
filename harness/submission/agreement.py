"""Whether the figures of a cell that was run again are those that a submission tells."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import chain
from typing import Any

import numpy as np
from scipy import stats

from harness.records import Averaging
from harness.submission.schema import COSTS, Cell, Submission

RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""How far rounding may carry a figure."""
FARTHEST = 6.0
"""So many standard deviations two draws may differ by, however few seeds there are to tell what one is."""


class Agreement(StrEnum):
    """How a figure agrees with the one told."""

    exact = "agree exactly"
    tolerance = "agree within rounding"
    interval = "agree within the spread over seeds"
    none = "do not agree"


class Spread:
    """How a submission's figures differ from seed to seed.

    A second draw of a cell differs from the first as two seeds do: by t·s·√2 at most, where s is the standard deviation
    over seeds, pooled over all tasks of the row (the cell's own figure, which is what is doubted, does not count), on
    the scale on which the metric is averaged. t has two sides and a level of 95 % for all `figures` that are compared
    together, and is `FARTHEST` at most. With fewer than two degrees of freedom there is no spread.
    """

    def __init__(self, submission: Submission, averaging: Averaging, figures: int) -> None:
        self._averaging, self._share = averaging, 0.05 / max(figures, 1)
        self._values: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for cell in submission.cells:
            if cell.failed is None:
                for figure in submission.figures(cell):
                    if figure["value"] is not None:
                        self._values[_place(cell, figure)][str(cell.at["task"])][cell.key] = figure["value"]

    def holds(self, cell: Cell, figure: Mapping[str, Any], track: str, again: float) -> bool:
        """Whether `again` may be another draw of a figure of `cell`."""
        told = [figure["value"], again]
        by_task = self._values[_place(cell, figure)].values()
        others = [[value for key, value in of.items() if key != cell.key] for of in by_task]
        if self._averaging.get(track, {}).get(figure["metric"], {}).get("scale") == "log":
            if min(chain(told, *others)) <= 0:
                return False
            told, *others = [[math.log(value) for value in of] for of in (told, *others)]
        freedom = sum(len(of) - 1 for of in others if of)
        if freedom < 2:
            return False
        s = math.sqrt(sum(np.var(of) * len(of) for of in others if of) / freedom)
        t = min(FARTHEST, stats.t.ppf(1 - self._share / 2, freedom))
        return bool(abs(told[0] - told[1]) <= t * s * math.sqrt(2))


def _place(cell: Cell, figure: Mapping[str, Any]) -> str:
    """What a figure has in common with those of other seeds and tasks."""
    at = {name: value for name, value in cell.at.items() if name not in ("seed", "task")} | _coordinates(figure)
    return str(sorted((name, value) for name, value in at.items() if value is not None))


def _coordinates(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figure.items() if name not in ("value", "note") and value is not None}


def compare(
    told: Iterable[Mapping[str, Any]],
    again: Iterable[Mapping[str, Any]],
    cell: Cell,
    track: str,
    averaging: Averaging,
    spread: Spread,
) -> list[tuple[str, Agreement]]:
    """Of each figure what it is and how it agrees; a list of other figures agrees in none. What the harness here, not
    the submission, knows as costs is left out."""
    told, again = list(told), list(again)
    if [_coordinates(figure) for figure in told] != [_coordinates(figure) for figure in again]:
        return [("other figures than are measured here", Agreement.none)]
    found = []
    for one, other in zip(told, again, strict=True):
        if averaging.get(track, {}).get(one["metric"], {}).get("unit") not in COSTS:
            label = " ".join(str(value) for value in _coordinates(one).values())
            agreement = _agreement(one, other["value"], cell, track, spread)
            if agreement is not Agreement.interval and one.get("note") != other.get("note"):
                agreement = Agreement.none
                label += f", noted '{one.get('note')}' there, '{other.get('note')}' here"
            if agreement is Agreement.none:
                label += f": {one['value']} there, {other['value']} here"
            found.append((label, agreement))
    return found


def _agreement(told: Mapping[str, Any], again: float | None, cell: Cell, track: str, spread: Spread) -> Agreement:
    if told["value"] == again:
        return Agreement.exact
    if told["value"] is None or again is None:
        return Agreement.none
    if math.isclose(told["value"], again, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
        return Agreement.tolerance
    return Agreement.interval if spread.holds(cell, told, track, again) else Agreement.none
