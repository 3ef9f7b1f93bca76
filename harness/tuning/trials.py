"""Trials: rows of a suite with settings to try, and what each of them has reached."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.leaderboard.cost_to_break import threat_models
from harness.leaderboard.scores import selected
from harness.metric import read_values
from harness.plan import Plan
from harness.plugin import PluginSpec
from harness.ranking import Outcome, Selector
from harness.records import frame
from harness.registry import installed
from harness.store import Store
from harness.suite import Grid


@dataclass(frozen=True)
class Trial:
    """One setting of an attacker that was tried against a defense.

    number: from 0, the suite's own setting. settings: the searched fields. score: mean over tasks, seeds and measured
    steps of how far the attack has got so far, from the outcome's start; NaN if a cell failed. retention: of the
    attacked model, relative to the released one; NaN where none is measured. seconds: inside the attacker. allowed:
    whether the retention is at least 1 − ε. cells: the score of each cell, by task and seed.
    """

    number: int
    settings: Mapping[str, Any]
    score: float
    retention: float
    seconds: float
    allowed: bool
    cells: Mapping[tuple[str, int], float] = field(default_factory=dict, repr=False)


def outcome(grid: Grid, attacker: str) -> Outcome:
    """What says how far the row `attacker` has got: as in the first threat model that it is in. Raises `UsageError` for
    a grid without a ranking."""
    models = (model for model in threat_models(grid).values() if attacker in model.attackers)
    found = next((model.outcome for model in models if model.outcome is not None), grid.ranking)
    if found is None:
        raise UsageError(f"grid '{grid.name}' has no ranking, so nothing says how far an attack has got")
    return found


def grid_of(grid: Grid, attacker: str, defense: str, rows: Mapping[str, PluginSpec]) -> Grid:
    """The grid of one defense with trials of the row `attacker` as attackers, measured by the metrics that a search
    reads. rows: the trials by label."""
    wanted = {str(selector["metric"]) for selector in (outcome(grid, attacker).value, *_retained(grid))}
    registry = installed()
    metrics = {
        label: spec
        for label, spec in grid.metrics.items()
        if wanted & {quantity.name for quantity in registry.get("metric", spec.name).load().quantities}
    }
    return grid.model_copy(
        update={
            "name": re.sub(r"[^\w .,+=()@-]", "_", f"{grid.name} {defense}"),
            "defenses": {defense: grid.defenses[defense]},
            "attackers": dict(rows),
            "metrics": metrics,
            "threat_models": {},
            "ensemble": None,
            "tuned": {},
            "sweeps": {},
            "changed": [],
        }
    )


def merged(parts: Sequence[Grid]) -> list[Grid]:
    """Grids of one name as one, with the attackers of all."""
    grids: dict[str, Grid] = {}
    for part in parts:
        known = grids.get(part.name)
        attackers = {**(known.attackers if known else {}), **part.attackers}
        grids[part.name] = part.model_copy(update={"attackers": attackers})
    return list(grids.values())


def values(plan: Plan, store: Store, failed: Mapping[str, str]) -> pd.DataFrame:
    """The records of a plan's cells. failed: reasons of failed jobs by key."""
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        artifact = None if cell.job.key in failed else store.open(cell.job.key)
        at = {**cell.coordinates, "key": cell.job.key, "status": "failed" if artifact is None else "ok"}
        rows += [{**at, **value} for value in read_values(artifact)] if artifact is not None else [at]
    return frame(rows)


def trial(
    part: Grid,
    label: str,
    goal: Outcome,
    epsilon: float,
    records: pd.DataFrame,
    number: int,
    settings: Mapping[str, Any],
) -> Trial:
    """What the row `label` of the grid `part` (see `grid_of`) has reached by the outcome `goal`. records: see `values`.
    number, settings: fields of the trial."""
    own = records[(records["grid"] == part.name) & ((records["attacker"] == label) | records["attacker"].isna())]
    attacked = own[own["attacker"].notna()]
    curves = attacked[(attacked["status"] == "ok") & selected(attacked, goal.value) & (attacked["step"] > 0)]
    cells: dict[tuple[str, int], float] = {}
    if len(curves) and not (attacked["status"] != "ok").any():
        at = curves.assign(value=curves["value"].astype(float), seed=curves["seed"].fillna(0))
        wide = at.pivot_table("value", ["task", "seed"], "step", dropna=False)
        progress = goal.origin - wide if goal.better == "higher" else wide - goal.origin
        means = progress.clip(lower=0).T.cummax().mean()  # the start is not lost
        cells = {(str(place[0]), int(place[1])): float(value) for place, value in zip(means.index, means, strict=True)}
    score = float(np.mean(list(cells.values()))) if cells else float("nan")
    seconds = attacked.loc[(attacked["metric"] == "seconds") & attacked["step"].isna(), "value"].astype(float).sum()
    retention = _retention(own, part)
    allowed = not np.isnan(score) and not retention < 1 - epsilon
    return Trial(number, dict(settings), score, retention, float(seconds), allowed, cells)


def _retained(grid: Grid) -> list[Selector]:
    """The values of an attacked model's retention of what the attack is not about."""
    return list(grid.ranking.retained) if grid.ranking else []


def _retention(own: pd.DataFrame, grid: Grid) -> float:
    """The smallest retention of the attacked model relative to the released one, over its kinds; NaN if none is
    measured."""
    shares = []
    for selector in _retained(grid):
        rows = own[selected(own, selector)]
        released, attacked = (rows[rows["attacker"].isna() == side] for side in (True, False))
        last = attacked[attacked["step"] == attacked["step"].max()]
        if len(released) and len(last):
            shares.append(float(last["value"].mean() / max(released["value"].mean(), 1e-9)))
    return min(shares, default=float("nan"))
