"""The record schema: one measured figure a row; Parquet in and out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness import ranking as protection
from harness.errors import UsageError
from harness.execution.scheduler import ensure
from harness.plan import Plan
from harness.store import Store
from harness.suite import Suite

Averaging = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Track → metric → `unit` and `scale`."""
FILE = "records.json"
"""What a measuring job leaves in its artifact: a list of figures."""

SCHEMA: dict[str, str] = {
    "suite": "string",
    "suite_version": "Int64",
    "grid": "string",
    "track": "string",
    "task": "string",
    "defense": "string",
    "attacker": "string",  # empty: measured on the model before any attack
    "seed": "Int64",  # empty: nothing random in it, one figure stands for all seeds
    "concept": "string",  # one part of a task that has several; empty: the whole task
    "metric": "string",
    "role": "string",  # the task's side: harmful, benign, or empty
    "policy": "string",  # how the figure is defined where there are several ways: κ policy, encoder
    "split": "string",  # train or heldout rows
    "step": "Int64",  # optimisation steps of the attack
    "value": "Float64",
    "unit": "string",
    "scale": "string",  # on which it is averaged: linear or log
    "note": "string",
    "status": "string",  # ok, or failed: a hole, with its reason in the note
    "defense_call": "string",
    "attacker_call": "string",
    "control": "string",  # the defense is: undefended (what is compared with), another control, or empty: on trial
    "members": "string",  # what the task is made of, joined by +: tasks that share one are alike
    "judged": "string",  # the figure says how well the model withstands the attack, and a defender wants it higher or
    # lower; or it is of what is to be kept; else empty
    "broken": "Float64",  # an attack that brings the figure so far has succeeded
    "resolution": "Float64",  # a smaller difference of the figure, on its scale, is none
    "tuned": "boolean",  # settings were chosen on this task and seed; empty: the suite does not say
    "key": "string",  # of the measuring job
}
"""Column → pandas type."""


def figure(metric: str, value: float | None, **coordinates: Any) -> dict[str, Any]:
    """One figure of a measuring job; `coordinates`: concept, role, policy, split, step,
    note. None: not defined here."""
    return {"metric": metric, "value": value, **coordinates}


def write_figures(figures: Iterable[Mapping[str, Any]], out: Path) -> None:
    """Leave a measuring job's figures in its artifact; pictures (`*.png`) may stand beside them."""
    (out / FILE).write_text(dump_figures(list(figures)))


def dump_figures(figures: Sequence[Mapping[str, Any]]) -> str:
    """The text of that file."""
    return json.dumps(figures, allow_nan=False)


def read_figures(artifact: Path) -> list[dict[str, Any]]:
    """What `write_figures` left."""
    figures: list[dict[str, Any]] = json.loads((artifact / FILE).read_text())
    return figures


def collect(plan: Plan, store: Store, failed: Mapping[str, str]) -> pd.DataFrame:
    """The records of a plan; a cell whose job failed becomes one row with status `failed` and the reason."""
    keys = {cell.job.key: cell.job for cell in plan.cells}
    figures = {
        key: read_figures(ensure(job, store, plan.suite.plugins)) for key, job in keys.items() if key not in failed
    }
    cells = ((cell.coordinates, cell.job.key) for cell in plan.cells)
    return assemble(cells, figures, failed, averaging(plan.suite), protection.judging(plan))


def averaging(suite: Suite) -> Averaging:
    """The unit and the scale of each metric of a suite's tracks."""
    found: dict[str, dict[str, Mapping[str, str | None]]] = {}
    for grid in suite.grids:
        for metric in grid.said:
            how = {"unit": metric.unit or None, "scale": metric.scale}
            found.setdefault(grid.track.name, {})[metric.name] = how
    return found


def assemble(
    cells: Iterable[tuple[Mapping[str, Any], str]],
    figures: Mapping[str, Sequence[Mapping[str, Any]]],
    failed: Mapping[str, str],
    averaging: Averaging,
    judging: Mapping[str, protection.Judging],
) -> pd.DataFrame:
    """The records of cells (coordinates and key of each) from the figures of the measuring jobs, by key, and the
    reasons of those that failed. A record says itself how it is averaged and what it judges (`judging`: by grid): a
    board can be read where its track or metric is not installed."""
    rows: list[dict[str, Any]] = []
    for coordinates, key in cells:
        by = judging[coordinates["grid"]]
        base = {**coordinates, **by.of_cell(coordinates), "key": key, "status": "ok"}
        if key in failed:
            rows.append({**base, **by.missing(coordinates), "status": "failed", "note": failed[key]})
            continue
        how = averaging.get(base["track"], {})
        of_cell = [{**base, **how.get(row["metric"], {}), **row} for row in figures[key]]
        rows += [row | mark for row, mark in zip(of_cell, by.marks(of_cell), strict=True)]
    return _frame(rows)


def copy_pictures(plan: Plan, store: Store, failed: Mapping[str, str], out: Path) -> None:
    """Copy the pictures (`*.png`) that measuring jobs left beside their figures into `out`, named by their cell."""
    for cell in plan.cells:
        if cell.job.key not in failed:
            for path in sorted(ensure(cell.job, store, plan.suite.plugins).glob("*.png")):
                shutil.copyfile(path, out / picture_name(cell.coordinates, path.name))


def picture_name(at: Mapping[str, Any], file: str) -> str:
    """The name, beside a board, of a picture that the measuring job of the cell `at` calls `file`."""
    labels = [str(at[name]) for name in ("grid", "task", "defense", "attacker") if at.get(name)]
    return "__".join([*labels, file]).replace("/", "_")


def inventory(store: Store, keys: Iterable[str]) -> pd.DataFrame:
    """Artifacts by track and stage: how many, their MB, and the seconds they took to compute."""
    rows = []
    for key in keys:
        manifest = store.manifest(key)
        rows.append((manifest["track"], manifest["stage"], store.size(key) / 1e6, manifest["seconds"]))
    frame = pd.DataFrame(rows, columns=["track", "stage", "MB", "seconds"])
    found = frame.groupby(["track", "stage"], sort=False).agg(
        artifacts=("MB", "size"), MB=("MB", "sum"), seconds=("seconds", "sum")
    )
    return found.reset_index().round(1)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).reindex(columns=list(SCHEMA)).astype(SCHEMA)


def save(records: pd.DataFrame, path: Path) -> None:
    """Write Parquet."""
    records.to_parquet(path, index=False)


def load(path: Path) -> pd.DataFrame:
    """Read Parquet written by `save`; raises `UsageError` if it is absent or none of ours."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `immunebench run` writes it")
    try:
        return pd.read_parquet(path)[list(SCHEMA)].astype(SCHEMA)
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"{path} holds no records of this version: {error}") from None
