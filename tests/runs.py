"""Runs of suites through plan, scheduler and store, for tests of the engine; no submission or board is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from harness.costs import COST_UNITS, COSTS
from harness.execution import executors, scheduler
from harness.metric import read_values
from harness.plan import Plan, make
from harness.records import frame
from harness.selection import Selection
from harness.store import Store
from harness.suite_reader import load

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
TRACK, TWO_LAYER = EXAMPLES / "two_layer.py", str(EXAMPLES / "two_layer.yaml")
"""A whole track in a plugin file, and a suite of it that runs in a second: two tasks, two defenses, one attacker."""


def write_suite(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the suite of two layers, changed, into a folder; returns the file."""
    content = yaml.safe_load(Path(TWO_LAYER).read_text())
    content["plugins"] = [str(TRACK)]
    change(content)
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@dataclass(frozen=True)
class Run:
    """plan: what ran. failed: reasons by key. values: records of all cells, less times and memory."""

    plan: Plan
    failed: Mapping[str, str]
    values: pd.DataFrame


def plan(suite: str | Path = TWO_LAYER, **options: Any) -> Plan:
    """The plan of a suite. options: of `Selection`."""
    return make(load(str(suite), Selection.of(**options)))


def run(
    suite: str | Path = TWO_LAYER,
    *,
    store: Store | Path | None = None,
    workers: int | None = 1,
    cluster: str | None = None,
    timeout: float | None = None,
    keep: bool = False,
    **options: Any,
) -> Run:
    """Run a suite. options: of `Selection`."""
    made = plan(suite, **options)
    store = store if isinstance(store, Store) else Store(store)
    executor = executors.choose(None if cluster else workers, cluster)
    failed = scheduler.run(made, store, executor, keep=keep, timeout=timeout)
    return Run(made, failed, values(made, store, failed))


def values(made: Plan, store: Store, failed: Mapping[str, str]) -> pd.DataFrame:
    """Records of a plan's cells, less times and memory."""
    machine = {quantity.name for quantity in COSTS if quantity.unit in COST_UNITS}
    rows: list[dict[str, Any]] = []
    for cell in made.cells:
        place = {**cell.coordinates, "key": cell.job.key}
        if cell.job.key in failed:
            rows.append({**place, "status": "failed", "note": failed[cell.job.key]})
        elif (folder := store.open(cell.job.key)) is not None:
            rows += [
                {**place, "status": "ok", **value} for value in read_values(folder) if value["metric"] not in machine
            ]
    return frame(rows)
