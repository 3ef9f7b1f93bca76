"""The records of several submissions of one suite as those of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.errors import UsageError
from harness.leaderboard.flags import narrowing
from harness.plan import COST
from harness.records import Records
from harness.suite import Grid

CELL = ["grid", "task", "defense", "attacker", "seed", "measured_by"]
VALUE = ["key", "status", "concept", "metric", "role", "variant", "split", "step", "value", "flag", "note"]


def merge(parts: Mapping[str, Records], order: Sequence[str] = ()) -> Records:
    """The records of all parts; of a cell that several have, the first part's.

    parts: by name, for messages. order: names of grids, first to last; other grids follow as they come. Raises
    `UsageError` if parts are of different suites or versions, have different protocols of a grid, or different values
    of a cell; only run costs may differ.
    """
    names = list(parts)
    first = parts[names[0]]
    for name in names[1:]:
        _check_suite(names[0], first, name, parts[name])
    grids = _merged_grids(parts)
    places = {name: place for place, name in enumerate([*order, *(name for name in grids if name not in order)])}
    suite = first.suite.model_copy(update={"grids": sorted(grids.values(), key=lambda grid: places[grid.name])})
    frame = _merged_frame(parts)
    frame = frame.sort_values("grid", key=lambda column: column.map(places), kind="stable", ignore_index=True)
    tiers = list(dict.fromkeys(part.tier for part in parts.values()))
    tier = tiers[0] if len(tiers) == 1 else "; ".join(f"{name}: {part.tier}" for name, part in parts.items())
    return Records(suite, frame, tier, any(part.older for part in parts.values()))


def _check_suite(first_name: str, first: Records, name: str, part: Records) -> None:
    one, other = first.suite, part.suite
    if (one.name, one.version) != (other.name, other.version):
        raise UsageError(
            f"{name} is of {other.name} version {other.version}, {first_name} of {one.name} version {one.version}: a "
            "board is of one suite and version"
        )


def _merged_grids(parts: Mapping[str, Records]) -> dict[str, Grid]:
    """Each grid with the rows, tasks, seeds and quantities of all parts that have it."""
    by_grid: dict[str, dict[str, Grid]] = {}
    for name, part in parts.items():
        for grid in part.suite.grids:
            by_grid.setdefault(grid.name, {})[name] = grid
    return {name: _merged_grid(grids) for name, grids in by_grid.items()}


def _merged_grid(grids: Mapping[str, Grid]) -> Grid:
    first = next(iter(grids.values()))
    if len(grids) == 1:
        return first
    merged: dict[str, Any] = {"defenses": {}, "attackers": {}, "metrics": {}, "members": {}}
    for name, grid in grids.items():
        if (grid.track, grid.protocol, grid.ranking) != (first.track, first.protocol, first.ranking):
            raise UsageError(f"{name} has another protocol of grid '{grid.name}' than a submission before it")
        for field, rows in merged.items():
            rows.update({label: row for label, row in getattr(grid, field).items() if label not in rows})
    several = list(grids.values())
    merged["tasks"] = [task for i, task in enumerate(_all(several, "tasks")) if task not in _all(several, "tasks")[:i]]
    merged["seeds"] = sorted(set(_all(several, "seeds")))
    merged["quantities"] = list(dict.fromkeys(_all(several, "quantities")))
    merged["changed"] = list(dict.fromkeys(_changes(grids)))
    return first.model_copy(update=merged)


def _all(grids: Sequence[Grid], field: str) -> list[Any]:
    return [item for grid in grids for item in getattr(grid, field)]


def _changes(grids: Mapping[str, Grid]) -> list[str]:
    """How the grids differ from the suite file; what one part leaves out, another may have, so its name is said."""
    changes = []
    for name, grid in grids.items():
        left_out = narrowing(grid)
        changes += [f"{name}: {change}" if change in left_out else change for change in grid.changed]
    return changes


def _merged_frame(parts: Mapping[str, Records]) -> pd.DataFrame:
    owner: dict[tuple[str, ...], str] = {}
    values: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    frames = []
    for name, part in parts.items():
        cells = list(part.frame[CELL].astype("string").fillna("").itertuples(index=False, name=None))
        own: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        rows = part.frame[VALUE].astype("string").fillna("").itertuples(index=False, name=None)
        for cell, row in zip(cells, rows, strict=True):
            own.setdefault(cell, []).append(row)
        for cell, cell_values in own.items():
            if cell in values and cell[-1] != COST and sorted(values[cell]) != sorted(cell_values):
                label = " · ".join(part for part in cell if part)
                raise UsageError(f"{name} and {owner[cell]} differ in the cell {label}: leave one of them out")
        frames.append(part.frame[[cell not in values for cell in cells]])
        for cell, cell_values in own.items():
            owner.setdefault(cell, name)
            values.setdefault(cell, cell_values)
    return pd.concat(frames, ignore_index=True)
