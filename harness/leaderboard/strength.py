"""Strengths of swept defenses: protection and retention of each, and the largest that retains enough in each task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from harness.leaderboard.protection import Protection
from harness.leaderboard.retention import RETENTION, relative, retention_rows
from harness.leaderboard.scores import Scale
from harness.leaderboard.stats import BOUNDS
from harness.ranking import Selector
from harness.records import Records
from harness.suite import Grid

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


ALL: list[Selector] = [{"metric": "retention"}]
"""All values of retention."""


def allowed(records: Records, grid: Grid) -> dict[str, str | None]:
    """By sweep, its strongest row of which it and all weaker rows retain enough: at least the share `RETENTION` of the
    undefended model's retention, of each kind, in each task (mean over seeds). Where nothing ranks, as without
    attackers, all values of the quantity `retention` count. None where the weakest does not, or a row was not
    measured; empty where no retention was."""
    rows = retention_rows(records, grid, ALL) if grid.sweeps else records.frame.iloc[:0]
    if rows.empty:
        return {}
    kept = relative(rows, grid)
    least = kept.groupby(["defense", "task"]).mean().min(axis=1, skipna=False).groupby("defense").min()
    found: dict[str, str | None] = {}
    for sweep, labels in grid.sweeps.items():
        found[sweep] = None
        for row in labels:
            if not least.get(row, 0) >= RETENTION - 1e-9:
                break
            found[sweep] = row
    return found


def lines(records: Records, grid: Grid) -> Iterator[str]:
    """A line of text with what is `allowed`, if the grid has sweeps and retention."""
    if found := allowed(records, grid):
        texts = ", ".join(f"{sweep} {row.partition('@')[2] if row else 'none'}" for sweep, row in found.items())
        yield f"largest strength that retains {RETENTION:.0%} of each kind in each task, as all weaker ones do: {texts}"


def _least(values: pd.DataFrame, row: str) -> Any:
    """The kind of retention that is smallest on a row's mean over cells; None if none is measured."""
    means = values[values.index.get_level_values("defense") == row].mean().dropna()
    return means.idxmin() if len(means) else None


def _summary(one: Protection, values: pd.Series) -> pd.DataFrame:
    """Means of retention with their intervals for other seeds, by row."""
    scores = replace(one.costs.scores, by_cell=values.dropna(), scale=Scale(), resolution=0.0)
    return scores.summary()[["value", "ci_low", "ci_high"]]
