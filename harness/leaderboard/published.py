"""Values that papers published, in tidy files, and the suite to which they belong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.errors import UsageError

PUBLISHED: dict[str, str] = {
    "paper": "venue and year",
    "table": "table or figure of the paper",
    "setting": "name of the suite's grid that has the same tasks; else the paper's own words",
    "task": "label of the task, or the paper's group; empty: the mean over all tasks",
    "n_concepts": "how many concepts a task has",
    "defense": "label of the row",
    "attacker": "label of the row; `mean`: over the paper's attackers; empty: before any attack",
    "metric": "name of the quantity, as in records",
    "role": "the task's side: harmful, benign, or empty",
    "variant": "κ policy, encoder, …, as in records",
    "split": "train or heldout rows",
    "value": "the number, in the quantity's unit",
    "note": "models, data and steps that it is of",
}
"""Columns of a file of published values, in order; an empty cell: the paper does not say, or it does not apply."""


def read(path: Path) -> pd.DataFrame:
    """A file of published values with columns `PUBLISHED`; raises `UsageError` if it has others."""
    published = pd.read_csv(path, dtype={name: "string" for name in PUBLISHED if name != "value"})
    if list(published.columns) != list(PUBLISHED):
        raise UsageError(f"{path} is no file of published values: its columns must be {', '.join(PUBLISHED)}")
    return published
