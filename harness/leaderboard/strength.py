"""Protection and retention of each row, with their intervals: the points of strength curves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from harness.leaderboard.protection import Protection
from harness.leaderboard.scores import Scale
from harness.leaderboard.stats import BOUNDS

COLUMNS = {
    "threat_model": "name of the threat model",
    "defense": "label of a single row, or of the sweep that the row belongs to",
    "row": "label of the row",
    "control": "undefended, control or empty",
    "ratio": "cost to break over that of the undefended model of the same cell, geometric mean",
    **dict.fromkeys(BOUNDS, "95 % interval of the ratio: for other seeds (ci), for other tasks (tasks)"),
    "censored": "share of cells that no attack breaks within the budget: there the ratio is a lower bound",
    "retention": "relative retention of the released model, of one kind",
    "retention_ci_low": "95 % interval of it for other seeds",
    "retention_ci_high": "95 % interval of it for other seeds",
    "adapted": "relative retention after fine-tuning on a benign task, of one kind",
    "adapted_ci_low": "95 % interval of it for other seeds",
    "adapted_ci_high": "95 % interval of it for other seeds",
}
"""Columns of `strengths` besides the place of its grid."""


def strengths(one: Protection) -> pd.DataFrame:
    """A row for each row of the grid, those of a sweep in rising strength, with columns `COLUMNS`. All rows of a sweep
    have the same kind of retention: the one that ends the comparison, else the smallest of the strongest row."""
    grid = one.costs.grid
    censored = one.costs.censored.where(one.costs.least.notna()).astype(float).groupby("defense").mean()
    table = one.costs.scores.summary().rename(columns={"value": "ratio"}).assign(censored=censored)
    parts = []
    for defense, place in one.places.items():
        labels = [label for label in grid.sweeps.get(defense, [defense]) if label in grid.defenses]
        part = table.loc[labels].assign(defense=defense, row=labels)
        part["control"] = pd.Series([grid.control(row) for row in labels], part.index, object)
        for name, values in (("retention", one.kept), ("adapted", one.adapted)):
            kind = place.binding if name == "retention" and place.binding is not None else _least(values, labels[-1])
            if kind is not None:
                part[[name, f"{name}_ci_low", f"{name}_ci_high"]] = _summary(one, values[kind]).loc[labels]
        parts.append(part)
    front = {**one.costs.at, "threat_model": one.costs.name}
    return pd.concat(parts, ignore_index=True).assign(**front).reindex(columns=[*one.costs.at, *COLUMNS])


def _least(values: pd.DataFrame, row: str) -> Any:
    """The kind of retention that is smallest on a row's mean over cells; None if none is measured."""
    means = values[values.index.get_level_values("defense") == row].mean().dropna()
    return means.idxmin() if len(means) else None


def _summary(one: Protection, values: pd.Series) -> pd.DataFrame:
    """Means of retention with their intervals for other seeds, by row."""
    scores = replace(one.costs.scores, by_cell=values.dropna(), scale=Scale(), resolution=0.0)
    return scores.summary()[["value", "ci_low", "ci_high"]]
