"""Contrasts: how much longer a defense delays the attacks of one threat model than those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.leaderboard.equal_retention import at_equal_retention
from harness.leaderboard.headline import in_order, shown, with_digits
from harness.leaderboard.protection import Protection
from harness.leaderboard.scores import Scores
from harness.leaderboard.standings import comparisons
from harness.leaderboard.stats import BOUNDS, LEVEL, holm
from harness.leaderboard.tables import CI, marked
from harness.suite import Grid

COLUMNS = {
    "defense": "label of a single row, or of a sweep",
    "threat_model": "the grid's first threat model",
    "other": "another threat model",
    "ratio": "how many times longer the defense delays the attacks of the first than those of the other",
    **dict.fromkeys(BOUNDS, "95 % interval of the ratio: for other seeds (ci), for other tasks (tasks)"),
    "bound": "≥, ≤ or ≈: the budget ends attacks of the first threat model, of the other, or of both",
    "p": "of the paired test that the ratio is 1",
    "p_holm": "corrected for the number of the defense's contrasts",
    "n_cells": "number of cells",
    "separated": "p_holm < .05, and the budget cannot have moved the ratio across 1",
}
"""Columns of `contrasts` besides the place of its grid."""

_BOUNDS = {(False, False): "", (True, False): "≥", (False, True): "≤", (True, True): "≈"}
"""By whether the budget ends attacks of the first and of the other threat model."""


def contrasts(found: Sequence[Protection]) -> pd.DataFrame:
    """A row for each defense and threat model but the first: the ratio of the two costs to break, each over that on the
    undefended model of the same cell, at equal retention; tested on the same cells as `standings.comparisons` does.

    found: the protection against each threat model of a grid. Threat models without a column have no contrasts, nor has
    a defense that retains too little, or of which nothing can be tested. Empty where there are none.
    """
    models = shown(found)
    if len(models) < 2:
        return pd.DataFrame()
    scores = {one.costs.name: at_equal_retention(one.costs.scores, one.places, one.kept) for one in models}
    (first, of_first), *others = scores.items()
    censored = [one.table.set_index("defense")["censored"] for one in models]
    rows = []
    for defense in in_order(models):
        if defense not in of_first.rows or defense == models[0].costs.undefended:
            continue
        pairs = pd.DataFrame([_pair(defense, {first: of_first, name: other}) for name, other in others])
        ended = [shares[defense] > 0 for shares in censored]
        pairs["bound"] = [_BOUNDS[ended[0], of_other] for of_other in ended[1:]]
        pairs["p_holm"] = holm(pairs["p"].to_numpy(float))
        is_bound = pairs["bound"].isin(["", "≥"]).where(pairs["ratio"] > 1, pairs["bound"].isin(["", "≤"]))
        pairs["separated"] = is_bound & (pairs["p_holm"] < 1 - LEVEL)
        rows.append(pairs[pairs["p"].notna()].assign(**of_first.at, threat_model=first))
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    return table.reindex(columns=[*of_first.at, *COLUMNS]) if len(table) else pd.DataFrame()


def _pair(defense: str, models: dict[str, Scores]) -> dict[str, object]:
    """The contrast of two threat models for a defense. models: the scores of all defenses, of the first and of the
    other threat model."""
    by_cell = {name: scores.by_cell.xs(defense, level="defense") for name, scores in models.items()}
    first, other = models
    both = replace(
        models[first],
        rows=list(models),
        by_cell=pd.concat(by_cell, names=["defense"]),
        exact=frozenset(name for name, scores in models.items() if defense in scores.exact),
    )
    (pair,) = comparisons(both).to_dict("records")
    bounds = {name: pair.get(name, np.nan) for name in ("difference", *BOUNDS)}
    if pair["defense"] == other:
        turned = dict(zip(BOUNDS, ("ci_high", "ci_low", "tasks_high", "tasks_low"), strict=True))
        with np.errstate(divide="ignore"):  # the end of a wide interval may be 0
            bounds = {name: 1 / np.float64(bounds[turned.get(name, name)]) for name in bounds}
    return {
        "defense": defense,
        "other": other,
        "ratio": bounds.pop("difference"),
        **bounds,
        "p": pair.get("p", np.nan),
        "n_cells": pair.get("n_cells", 0),
    }


def readable(rows: pd.DataFrame, grid: Grid) -> tuple[pd.DataFrame, str]:
    """The contrasts `rows`, not empty, as a table for reading, and the text below it."""
    first = rows["threat_model"].iloc[0]
    read = pd.DataFrame(
        {
            "defense": [marked(grid, "defense", row) for row in rows["defense"]],
            "threat model": rows["other"],
            f"ratio {CI}": [_text(row) for _, row in rows.iterrows()],
            "separated": rows["separated"].map({True: "yes", False: ""}),
        },
        dtype=object,
    )
    below = (
        f"ratio: how many times longer a defense delays attacks of '{first}' than those of this threat model, each "
        "over the undefended model of the same cell. ≥, ≤, ≈: the budget ends attacks of the first, of this or of both "
        "threat models, so the ratio is at least, at most or only about so large. separated: the ratio is shown to "
        "differ from 1 (paired comparisons, Holm over the threat models of a defense, 5 %)."
    )
    return read, below


def _text(row: pd.Series) -> str:
    ratio, low, high = (with_digits(row[name]) for name in ("ratio", "ci_low", "ci_high"))
    return f"{row['bound']}{ratio}× [{low}, {high}]"
