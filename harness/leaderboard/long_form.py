"""The long-form board: a row a figure, with its intervals and what a paper says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.leaderboard.stats import intervals, limits
from harness.ranking import members
from harness.records import SCHEMA

CELL = ["suite", "suite_version", "grid", "track", "defense", "attacker"]
FIGURE = ["concept", "metric", "role", "policy", "split", "step"]
COLUMNS = [
    *CELL, *FIGURE, "value", "ci_low", "ci_high", "tasks_low", "tasks_high", "n_tasks", "n_seeds", "unit", "published",
    "published_note", "note", "flags",
]  # fmt: skip

NUMBERS = ["ci_low", "ci_high", "tasks_low", "tasks_high", "published"]

PUBLISHED_SCHEMA = [
    "paper", "table", "setting", "task", "n_concepts", "defense", "attacker", "metric", "role", "policy", "split",
    "value", "note",
]  # fmt: skip
"""Columns of a tidy file of published figures; an empty cell means the paper does not say or it does not apply.
`setting` is the suite's grid, `task` is empty for a mean over all tasks."""


def board(records: pd.DataFrame, published: pd.DataFrame | None = None) -> pd.DataFrame:
    """The long-form board: a row a figure, averaged over tasks within a seed, then over seeds.

    The intervals are `stats.intervals`: `ci_…` of other seeds, the tasks being the suite's own and fixed, `tasks_…` of
    other tasks as well; a ratio is averaged on the log scale. A cell of which some tasks or seeds failed says so in
    `note`; one of which all failed keeps a row with no value. `published` is the paper's figure for the same grid,
    defense and metric, `published_note` where it stands and what it is of. Raises `UsageError` if records of two
    versions of a suite are mixed.
    """
    versions = records.groupby("suite")["suite_version"].unique()
    for suite, found in versions[versions.map(len) > 1].items():
        raise UsageError(f"records of suite '{suite}' are of versions {' and '.join(map(str, sorted(found)))}, which "
                         "never mix: make a board of each")  # fmt: skip
    cells = records.groupby(CELL, dropna=False, sort=False).ngroup().rename("cell")
    holes = _holes(cells, records)
    measured = records[records["status"] == "ok"]
    measured = measured.assign(value=measured["value"].where(np.isfinite(measured["value"].astype(float))))
    groups = measured.groupby([*CELL, *FIGURE], dropna=False, sort=False).ngroup().rename("group")
    log = (measured["scale"] == "log").fillna(False).astype(bool)

    long = measured[[*CELL, *FIGURE]].groupby(groups).first()
    found = intervals(groups, measured["task"], measured["seed"], measured["value"], log, members(records))
    long = long.join(found.drop(columns=["se", "df"]))
    counts = measured.groupby(groups)
    long["n_tasks"] = counts["task"].nunique()
    long["n_seeds"] = counts["seed"].nunique().clip(lower=1)
    long["unit"] = counts["unit"].first()
    for unit, rows in long.groupby("unit").groups.items():
        ends = ["ci_low", "ci_high", "tasks_low", "tasks_high"]
        long.loc[rows, ends] = long.loc[rows, ends].clip(*limits(str(unit)))
    notes, of_cell = _notes(groups, measured), cells[measured.index].groupby(groups).first()
    long["note"] = ["; ".join(filter(None, (notes[g], holes.get(of_cell[g])))) for g in long.index]

    lost = [cell for cell in holes if not (of_cell == cell).any()]
    empty = records[CELL].groupby(cells).first().loc[lost].assign(n_tasks=0, n_seeds=0, note=[holes[c] for c in lost])
    long = pd.concat([long.assign(cell=of_cell), empty.assign(cell=lost)])
    long = long.sort_values("cell", kind="stable").reindex(columns=COLUMNS)  # the suite's order
    types = {name: kind for name, kind in SCHEMA.items() if name in COLUMNS}
    long = long.astype({**types, **dict.fromkeys(NUMBERS, "Float64"), "published_note": "string", "flags": "string"})
    long["note"] = long["note"].mask(long["note"] == "")
    long = long.reset_index(drop=True)
    return long if published is None else _with_published(long, published)


def _notes(groups: pd.Series, measured: pd.DataFrame) -> dict[int, str]:
    """What is to be said of each figure: the cells' own notes, how often it is undefined, where seeds play no
    part."""
    size = measured.groupby(groups).size()
    notes: dict[int, list[str]] = {int(group): [] for group in size.index}
    told = measured.groupby([groups, "note"]).size().rename("count").reset_index()
    for group, text, count in told.itertuples(index=False):
        notes[group].append(text if count == size[group] else f"{text} ({count} of {size[group]})")
    undefined = measured["value"].isna().groupby(groups).sum()
    for group in undefined.index[undefined > 0]:
        notes[group].append(f"undefined in {undefined[group]} of {size[group]} cells")
    unseeded = measured["seed"].isna().groupby(groups).all()
    for group in unseeded.index[unseeded]:
        notes[group].append("deterministic")
    return {group: "; ".join(texts) for group, texts in notes.items()}


def _holes(cells: pd.Series, records: pd.DataFrame) -> dict[int, str]:
    """By cell of the board, how many of its measurements are missing and why."""
    holes = {}
    failed = records[records["status"] != "ok"]
    for cell, failures in failed.groupby(cells):
        total = records.loc[cells == cell, "key"].nunique()
        reason = failures["note"].iloc[0]
        holes[int(str(cell))] = f"{failures['key'].nunique()} of {total} cells failed: {reason}"
    return holes


def _with_published(long: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Beside each figure, at an attack's last step, the paper's for the same grid, defense, attacker and metric. What
    the paper tells of single tasks only is averaged over them. A figure of a kind that is measured here, but by
    another policy (an encoder that is not at hand), has a row of its own with nothing measured."""
    keys = ["grid", "defense", "attacker", "metric", "role", "policy", "split"]
    told = published.rename(columns={"setting": "grid", "value": "published"})
    where = told["paper"] + ", " + told["table"]
    told["published_note"] = where.where(told["note"].isna(), where + ": " + told["note"])
    of_tasks = told[told["task"].notna()].groupby(keys, dropna=False).agg(
        published=("published", "mean"), published_note=("published_note", "first"), tasks=("task", "size")
    ).reset_index()  # fmt: skip
    of_tasks["published_note"] += "; mean of " + of_tasks["tasks"].astype("string") + " tasks"
    told = pd.concat([told[told["task"].isna()], of_tasks])[[*keys, "published", "published_note"]]
    told = told.drop_duplicates(keys).astype({**dict.fromkeys(keys, "string"), "published_note": "string"})
    merged = long.drop(columns=["published", "published_note"]).merge(told, on=keys, how="left")
    last = merged["step"].isna() | (merged["step"] == merged.groupby(CELL, dropna=False)["step"].transform("max"))
    for name in ("published", "published_note"):
        merged[name] = merged[name].where(last.fillna(True))
    kinds = long[[*CELL, "metric"]].drop_duplicates()
    elsewhere = told.merge(kinds, on=["grid", "defense", "attacker", "metric"])
    elsewhere = elsewhere.merge(long[keys].drop_duplicates(), on=keys, how="left", indicator=True)
    elsewhere = elsewhere[elsewhere["_merge"] == "left_only"].assign(n_tasks=0, n_seeds=0, note="published only")
    both = pd.concat([merged, elsewhere]).reindex(columns=COLUMNS) if len(elsewhere) else merged
    return both[COLUMNS].astype(long.dtypes.to_dict())


def read_published(path: Path) -> pd.DataFrame:
    """A tidy file of published figures (`PUBLISHED_SCHEMA`); raises `UsageError` if it is none."""
    published = pd.read_csv(path, dtype={name: "string" for name in PUBLISHED_SCHEMA if name != "value"})
    if list(published.columns) != PUBLISHED_SCHEMA:
        raise UsageError(f"{path} is no file of published figures: its columns must be {', '.join(PUBLISHED_SCHEMA)}")
    return published
