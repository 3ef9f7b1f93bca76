"""Compares the values of a cell that was run again with the submitted values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from harness.costs import COST_UNITS
from harness.metric import Quantity, Value
from harness.submission.schema import Cell, Submission

RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Largest relative and absolute difference that counts as rounding."""
MAX_T = 6.0
"""Cap on the t quantile, which is large if few seeds estimate the standard deviation."""
REMARKS = ("flag", "note")
"""Fields that describe a value and may change with it."""

Quantities = Mapping[str, Quantity]
"""Quantities of a grid by name, as this harness defines them."""


class Agreement(StrEnum):
    """Degree of agreement of a value with the submitted one."""

    exact = "agree exactly"
    tolerance = "agree within rounding"
    interval = "agree within the spread over seeds"
    none = "do not agree"


class Compared(NamedTuple):
    """A value that was compared.

    label: the value's description. agreement: its degree of agreement. telling: whether an exact agreement tells that
    both were computed in the same way; whole numbers, such as counts and shares of 0 and 1, agree anyway.
    """

    label: str
    agreement: Agreement
    telling: bool


class Spread:
    """The spread of a submission's values over seeds.

    A second draw of a cell may differ from the first as two seeds do, by at most t·s·√2. s is the standard deviation
    over seeds, pooled over the tasks of the row, without the cell itself (whose value is in question), on the scale on
    which the quantity is averaged. t is the two-sided t quantile at a level of 95 % for all compared values together,
    capped at MAX_T. With fewer than two degrees of freedom no difference is allowed.

    submission: the submission. compared: number of values to compare.
    """

    def __init__(self, submission: Submission, compared: int) -> None:
        self._share = 0.05 / max(compared, 1)
        self._values: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for cell in submission.cells:
            for value in submission.values(cell):
                if value["value"] is not None:
                    task = str(cell.coordinates["task"])
                    self._values[_place(cell, value)][task][cell.key] = value["value"]

    def holds(self, cell: Cell, value: Value, quantity: Quantity | None, again: float) -> bool:
        """Whether the number `again` may be another draw of the value `value` of `cell`. quantity: the quantity of the
        value; None if it is unknown here."""
        both = [value["value"], again]
        tasks = self._values[_place(cell, value)].values()
        others = [[number for key, number in seeds.items() if key != cell.key] for seeds in tasks]
        if quantity is not None and quantity.scale == "log":
            if min(chain(both, *others)) <= 0:
                return False
            both, *others = [[math.log(number) for number in numbers] for numbers in (both, *others)]
        freedom = sum(len(seeds) - 1 for seeds in others if seeds)
        if freedom < 2:
            return False
        s = math.sqrt(sum(np.var(seeds) * len(seeds) for seeds in others if seeds) / freedom)
        t = min(MAX_T, stats.t.ppf(1 - self._share / 2, freedom))
        return bool(abs(both[0] - both[1]) <= t * s * math.sqrt(2))


def compare(
    submitted: Iterable[Value], again: Iterable[Value], cell: Cell, quantities: Quantities, spread: Spread | None
) -> list[Compared]:
    """Compare the values of a cell.

    submitted, again: its values in the submission and here. cell: the cell. quantities: the grid's quantities by name.
    spread: the submission's spread over seeds; None: only rounding is allowed. Returns what is known of each value,
    without run costs that depend on the machine; if the two lists have other values, a single entry that does not
    agree.
    """
    submitted, again = list(submitted), list(again)
    if [_fields(value) for value in submitted] != [_fields(value) for value in again]:
        return [Compared("the submission has other values than are measured here", Agreement.none, False)]
    agreements = []
    for there, here in zip(submitted, again, strict=True):
        quantity = quantities.get(there["metric"])
        if quantity is None or quantity.unit not in COST_UNITS:
            label = " ".join(str(field) for field in _fields(there).values())
            agreement = _agreement(there, here["value"], cell, quantity, spread)
            remarks = [" ".join(str(value[name]) for name in REMARKS if value.get(name)) for value in (there, here)]
            if agreement is not Agreement.interval and remarks[0] != remarks[1]:
                agreement = Agreement.none
                label += f", flag and note '{remarks[0]}' in the submission, '{remarks[1]}' here"
            if agreement is Agreement.none:
                label += f": {there['value']} in the submission, {here['value']} here"
            telling = here["value"] is not None and here["value"] % 1 != 0
            agreements.append(Compared(label, agreement, telling))
    return agreements


def _place(cell: Cell, value: Value) -> str:
    """The row and the fields of a value, which the values of other seeds and tasks share."""
    row = {name: label for name, label in cell.coordinates.items() if name not in ("seed", "task")} | _fields(value)
    return str(sorted((name, field) for name, field in row.items() if field is not None))


def _fields(value: Value) -> dict[str, Any]:
    return {name: field for name, field in value.items() if name not in ("value", *REMARKS) and field is not None}


def _agreement(
    there: Value, here: float | None, cell: Cell, quantity: Quantity | None, spread: Spread | None
) -> Agreement:
    if there["value"] == here:
        return Agreement.exact
    if there["value"] is None or here is None:
        return Agreement.none
    if math.isclose(there["value"], here, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
        return Agreement.tolerance
    return Agreement.interval if spread is not None and spread.holds(cell, there, quantity, here) else Agreement.none
