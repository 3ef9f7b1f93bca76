"""Values that papers published, in tidy files, and the suite to which they belong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED: dict[str, str] = {
    "paper": "venue and year",
    "table": "table or figure of the paper",
    "setting": "name of the suite's grid that has the same tasks; else the paper's own words",
    "task": "label of the task, or the paper's group; empty: the mean over all tasks",
    "mean": "arithmetic or geometric, which the mean over all tasks is; empty: as the board averages the quantity",
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
    """A file of published values with columns `PUBLISHED`; raises `UsageError` if it cannot be read as CSV in UTF-8, if
    it has other columns, if a value is no finite number, or if two rows are of one number."""
    import numpy as np
    import pandas as pd

    try:
        published = pd.read_csv(path, dtype="string", encoding="utf-8", skip_blank_lines=False)
    except FileNotFoundError:
        raise UsageError(f"the published values {path} do not exist") from None
    except (OSError, ValueError) as error:  # also no UTF-8, an empty file, and rows of other lengths
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot read the published values {path} as CSV in UTF-8: {reason}") from None
    if list(published.columns) != list(PUBLISHED) or not isinstance(published.index, pd.RangeIndex):
        raise UsageError(
            f"{path} is no file of published values: each row must have the columns {', '.join(PUBLISHED)}"
        )
    published = published.dropna(how="all")
    values = pd.to_numeric(published["value"], errors="coerce").astype(float)
    for row in values.index[~np.isfinite(values)]:
        value = published.loc[row, "value"]
        shown = "is missing" if pd.isna(value) else f"{value!r:.80} is no number"
        raise UsageError(f"{path}, row {row + 2}: the value {shown}; write it with a decimal point, without a unit")
    for row in published.index[~published["mean"].isin(["arithmetic", "geometric"]) & published["mean"].notna()]:
        mean = published.loc[row, "mean"]
        raise UsageError(f"{path}, row {row + 2}: the mean is {mean!r:.80}; write arithmetic, geometric or nothing")
    numbers = published.drop(columns=["paper", "table", "value", "note"])
    for row in numbers.index[numbers.duplicated()]:
        raise UsageError(f"{path}, row {row + 2}: an earlier row has a value of the same number: keep one of the two")
    return published.assign(value=values)
