"""Records: a table with one measured value in each row, and the suite that defines its rows and quantities.

Records are made from submissions only; boards, pictures and the site are made from records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.files import write_bytes
from harness.suite import Grid, Suite

TEXT = "string[python]"
"""Rows share their texts, which in Arrow's arrays would be written out for each row."""
COLUMNS: dict[str, str] = {
    "suite": TEXT,
    "suite_version": "Int64",
    "grid": TEXT,
    "track": TEXT,
    "task": TEXT,
    "defense": TEXT,
    "attacker": TEXT,  # empty: measured on the released model, before any attack
    "seed": "Int64",  # empty: the value depends on no random draw and holds for all seeds
    "measured_by": TEXT,  # label of the metric plugin, `cost` or `pictures`
    "concept": TEXT,  # one part of a task that has several; empty: the whole task
    "metric": TEXT,  # name of the quantity
    "role": TEXT,  # the task's side: harmful, benign, or empty
    "variant": TEXT,  # how the metric is computed where there are several ways: κ policy, encoder
    "split": TEXT,  # train or heldout rows
    "step": "Int64",  # optimisation steps of the attack
    "value": "Float64",
    "flag": TEXT,  # name of the flag that the metric raises, if any
    "note": TEXT,
    "status": TEXT,  # ok, or failed: a failed cell, with its reason in the note
    "key": TEXT,  # of the measuring job
}
"""Column → pandas type."""
Row = tuple[str, str, str]
"""Grid, kind of plugin and label."""


@dataclass(frozen=True)
class Records:
    """The values of one suite.

    suite: has every row that a value belongs to; its grids define the ranking, the quantities, the control rows and the
    calls of the plugins. frame: the values, with columns `COLUMNS`. tier: how far the submissions were checked, as text
    for a board. older: the submissions have an earlier format, whose keys this harness does not reproduce. tiers: on a
    board of which some rows were checked less than others, the tiers of each row's cells as text. unverified: of these
    the attackers of which no cell was run again by a verification, and the defenses with cells of submissions of which
    none was. untrusted: of these the rows of which no cell was run again. A row is its grid, kind of plugin and label.
    """

    suite: Suite
    frame: pd.DataFrame
    tier: str = "self-reported"
    older: bool = False
    tiers: Mapping[Row, str] = field(default_factory=dict)
    unverified: frozenset[Row] = frozenset()
    untrusted: frozenset[Row] = frozenset()

    def of(self, grid: Grid) -> pd.DataFrame:
        """The values of a grid; without a copy where there are no others."""
        chosen = self.frame["grid"] == grid.name
        return self.frame if chosen.all() else self.frame[chosen]

    def untrusted_defenses(self, grid: Grid) -> list[str]:
        """The `untrusted` defenses of a grid, without those that stand for no defense, to which all are compared."""
        return [
            row for row in grid.defenses if (grid.name, "defense", row) in self.untrusted and row not in grid.undefended
        ]

    def counted_attackers(self, grid: Grid) -> list[str]:
        """The attackers of a grid whose values count in a worst case: those that are not `untrusted`, because nobody
        may take a defense down by values that no one can check; all of them where no other is left."""
        known = [row for row in grid.attackers if (grid.name, "attacker", row) not in self.untrusted]
        return known or list(grid.attackers)

    def export(self, path: Path) -> None:
        """Write the values to the Parquet file `path`, with the unit and the calls of the plugins in each row."""
        frame = self.frame.copy(deep=False)
        grids = {grid.name: grid for grid in self.suite.grids}
        calls = {(kind, name, label): spec.call for name, grid in grids.items() for kind, label, spec in grid.rows()}
        units = {(name, quantity.name): quantity.unit for name, grid in grids.items() for quantity in grid.quantities}
        for kind in ("defense", "attacker"):
            pairs = zip(frame["grid"], frame[kind], strict=True)
            frame[f"{kind}_call"] = pd.Series([calls.get((kind, *pair)) for pair in pairs], frame.index, dtype="string")
        pairs = zip(frame["grid"], frame["metric"], strict=True)
        frame["unit"] = pd.Series([units.get(pair) for pair in pairs], frame.index, dtype="string")
        write_bytes(path, frame.to_parquet(index=False))


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame of the columns `COLUMNS` from `rows`, which map column names to values; missing values are empty."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for row in rows:
        for name, column in columns.items():
            column.append(row.get(name))
    series = {name: pd.Series(columns.pop(name), dtype=dtype) for name, dtype in COLUMNS.items()}
    return pd.DataFrame(series, copy=False)
