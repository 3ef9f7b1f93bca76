"""Which attacker is the strongest where, and what each one adds to the others of its threat model.

The strongest attacker of a cell is the one that breaks the model at the least cost, in the unit of its threat model.
Costs of two threat models have other units and outcomes, so they are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.leaderboard.cost_to_break import RESOLUTION, Costs
from harness.leaderboard.tables import WEAK, marked, row_name, without_empty_columns
from harness.suite import Grid

COLUMNS = {
    "threat_model": "name of the threat model",
    "attacker": "label of an attacker that breaks the undefended model",
    "defense": "label of a single row, or of a sweep, of which the cells of all strengths count",
    "cells": "number of cells in which the least cost to break is known",
    "share": "share of these cells in which the attacker is the strongest; equally strong ones share a cell",
    "alone": "share of these cells in which no other attacker of the threat model is as strong",
}
"""Columns of `shares` besides the place of its grid."""
BELOW = (
    "Share of cells (task × seed) in which an attacker is the strongest: it breaks the model at the least cost of its "
    "threat model; equally strong ones share a cell. everywhere: over all rows. alone: over all rows, the share of "
    "cells in which no other attacker of the threat model is as strong, which is what the attacker adds to them. "
)
UNBROKEN = "– (not broken)"
"""In place of an attacker, the share of cells that no attack breaks within the budget."""


def wins(costs: Costs) -> pd.DataFrame:
    """The share of each attacker in each cell: 1 for the strongest one, equal parts for equally strong ones, and 0 for
    all where no attack succeeds within the budget.

    costs: of a threat model. Returns index defense × task × seed, a column for each attacker that breaks the undefended
    model. Cells without a least cost are left out (see `Costs.least`).
    """
    least = costs.least.dropna()
    spent = costs.costs.loc[least.index]
    first = spent.le(least * (1 + RESOLUTION), axis=0) & (spent <= costs.budget)
    return first.astype(float).div(first.sum(axis=1).clip(lower=1), axis=0)


def _by_row(won: pd.DataFrame, grid: Grid) -> dict[str, pd.DataFrame]:
    """The cells of `wins` by single row or sweep, in the grid's order. Rows without any are left out."""
    rows = won.index.get_level_values("defense").map(grid.family)
    order = dict.fromkeys(map(grid.family, grid.defenses))
    return {row: won[rows == row] for row in order if row in rows}


def shares(costs: Costs) -> pd.DataFrame:
    """A row for each attacker and defense, columns `COLUMNS`. costs: of a threat model."""
    parts = [
        pd.DataFrame({"share": part.mean(), "alone": (part == 1).mean()})
        .rename_axis("attacker")
        .reset_index()
        .assign(**costs.at, threat_model=costs.name, defense=row, cells=len(part))
        for row, part in _by_row(wins(costs), costs.grid).items()
    ]
    columns = [*costs.at, *COLUMNS]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def table(found: Sequence[Costs], grid: Grid) -> tuple[pd.DataFrame, str] | None:
    """The readable table and the text below it; None where there is only one attacker, or no cost to break is known.

    found: the costs of each threat model of the grid.
    """
    won = {costs.name: wins(costs) for costs in found}
    if len(grid.attackers) < 2 or all(part.empty for part in won.values()):
        return None
    rows: list[dict[str, str]] = []
    for costs in found:
        part = won[costs.name]
        for attacker in costs.model.attackers:
            weak = attacker in costs.weak
            name = row_name(grid, "attacker", attacker) + (WEAK if weak else "")
            texts = {} if weak else _texts(part[[attacker]], grid)
            rows.append({"threat model": costs.name, "attacker": name, **texts})
        unbroken = (part.sum(axis=1) == 0).astype(float).to_frame()
        if unbroken.any(axis=None):
            texts = _texts(unbroken, grid) | {"alone": ""}
            rows.append({"threat model": costs.name, "attacker": UNBROKEN, **texts})
    titles = dict.fromkeys(title for row in sorted(rows, key=len, reverse=True) for title in row)
    made = without_empty_columns(pd.DataFrame(rows, columns=list(titles), dtype=object))
    below = BELOW
    if any(costs.weak for costs in found):
        below += f"{WEAK.strip()}: not shown to break the undefended model, so not counted. "
    if any(len(won[costs.name]) < len(costs.least) for costs in found):
        below += "Cells with a failed attack, and those whose undefended model is not broken, are left out."
    return made.drop(columns=[] if len(found) > 1 else "threat model").fillna(""), below.strip()


def _texts(won: pd.DataFrame, grid: Grid) -> dict[str, str]:
    """The shares of one attacker as text, by title of a column. won: its column of `wins`."""
    parts = {f"on {marked(grid, 'defense', row)}": part for row, part in _by_row(won, grid).items()}
    means = {title: part.mean().iloc[0] for title, part in {**parts, "everywhere": won}.items()}
    means["alone"] = (won == 1).mean().iloc[0]
    return {title: f"{mean:.0%}" for title, mean in means.items() if not pd.isna(mean)}
