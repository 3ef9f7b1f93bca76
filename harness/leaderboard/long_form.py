"""The long-form board: a row for each number, with its intervals and the published value."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.costs import COST
from harness.leaderboard.scores import QUANTITY, for_every_seed, quantity_of
from harness.leaderboard.stats import BOUNDS, batches, intervals, limits, logarithms
from harness.ranking import MEAN
from harness.records import COLUMNS as RECORD_COLUMNS
from harness.records import Records
from harness.suite import Grid

CELL = ["suite", "suite_version", "grid", "track", "defense", "attacker", "measured_by"]
NUMBER = ["concept", "metric", "role", "variant", "split", "step"]

COLUMNS: dict[str, str] = {
    **{name: RECORD_COLUMNS[name] for name in CELL},
    **{name: RECORD_COLUMNS[name] for name in NUMBER},
    "value": "Float64",  # mean over tasks within a seed, then over seeds
    **dict.fromkeys(BOUNDS, "Float64"),  # 95 %: of other seeds on these tasks, and of other tasks as well
    "n_tasks": "Int64",
    "n_seeds": "Int64",
    "n_failed": "Int64",  # failed cells
    "unit": "string",
    "published": "Float64",
    "published_ours": "Float64",  # ours on the paper's tasks, averaged as the paper does; see `reproduction`
    "published_note": "string",
    "note": "string",
    "flag": "string",  # raised by the metric of these values
    "flags": "string",  # raised by the board of the row
}
"""Column → pandas type."""


def board(records: Records, compared: pd.DataFrame | None = None) -> pd.DataFrame:
    """The long-form board of records, with columns `COLUMNS`; `flags` stays empty (see `harness.leaderboard.flags`).

    Values are averaged over tasks within a seed, then over seeds, geometrically where the scale is log (see
    `stats.intervals`). Of grids with two attackers and more, a mean over the attackers is added (see
    `mean_over_attackers`). A row with failed cells says so in `n_failed` and `note`; one whose cells all failed keeps
    a row without a value. compared: published values beside ours, see `reproduction.compare`; a value that is not
    measured here has a row of its own.
    """
    parts = [_grid_board(records, grid) for grid in records.suite.grids]
    long = pd.concat([part for part in parts if len(part)] or parts[:1])
    long = long.reindex(columns=list(COLUMNS)).astype(COLUMNS).reset_index(drop=True)
    return long if compared is None else _with_published(long, compared)


def measured(records: Records, grid: Grid) -> pd.DataFrame:
    """The measured values of a grid's rows, with the means over its attackers; what is not finite is undefined."""
    return _measured(records.frame[_of_rows(records.frame, grid)], grid)


def _of_rows(frame: pd.DataFrame, grid: Grid) -> pd.Series:
    """Whether each record is of a grid, and of the released model or one of its attackers."""
    attacker = frame["attacker"]
    return (frame["grid"] == grid.name) & (attacker.isna() | attacker.isin(list(grid.attackers)))


def _measured(frame: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    values = frame[frame["status"] == "ok"]
    finite = np.isfinite(values["value"].astype(float))
    values = values.assign(value=values["value"].where(finite))
    means = mean_over_attackers(values, grid)
    return pd.concat([values, means], ignore_index=True) if len(means) else values.reset_index(drop=True)


def _grid_board(records: Records, grid: Grid) -> pd.DataFrame:
    """The board of a grid, computed for some defenses at a time, because their numbers do not depend on others'."""
    chosen = _of_rows(records.frame, grid)
    defenses = records.frame["defense"]
    sizes = defenses[chosen].value_counts(sort=False, dropna=False)
    parts = [_part(records.frame[chosen & defenses.isin(batch)], grid) for batch in batches(sizes.to_dict())]
    return _in_grid_order(pd.concat(parts, ignore_index=True), grid)


def _part(frame: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The board of some of a grid's records, those of whole defenses."""
    values = _measured(frame, grid)
    long = _averaged(values, grid) if len(values) else pd.DataFrame(columns=[*CELL, *NUMBER])
    return _with_failures(long, frame[[*CELL, "key", "status", "note"]])


def mean_over_attackers(measured: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """Records of a mean over a grid's attackers, called `MEAN`: of each task, seed and quantity at the last step, where
    no attacker's value is missing; undefined if one of them is. Run costs have none, nor grids with fewer than two
    attackers."""
    if len(grid.attackers) < 2 or MEAN in grid.attackers:
        return measured.head(0)
    number = ["defense", *QUANTITY, "concept"]
    rows = measured[measured["attacker"].notna() & (measured["measured_by"] != COST)]
    steps = rows["step"].fillna(-1)
    rows = rows[steps == steps.groupby([rows[name] for name in [*number, "attacker"]], dropna=False).transform("max")]
    # A value without a seed stands for every seed of an attacker that draws random numbers.
    seeded = rows.groupby(number, dropna=False)["seed"].transform("count") > 0
    rows = pd.concat([rows[~seeded], for_every_seed(rows[seeded], grid.seeds)])
    cells = ["suite", "suite_version", "grid", "track", "task", "seed", *number, "step"]
    log = _is_log(rows["metric"], grid)
    values = rows["value"].astype(float)
    scaled = values.where(~log, logarithms(values))
    by_cell = rows.assign(scaled=scaled).groupby(cells, dropna=False, sort=False)
    means = by_cell.agg(attackers=("attacker", "nunique"), defined=("scaled", "count"), scaled=("scaled", "mean"))
    means = means[means["attackers"] == len(grid.attackers)].reset_index()
    scaled = means["scaled"].where(means["defined"] == means["attackers"])
    log = _is_log(means["metric"], grid)
    values = scaled.where(~log, pd.Series(np.exp(scaled.where(log)), scaled.index))
    means = means[cells].assign(attacker=MEAN, value=values, status="ok", key="")
    return means.reindex(columns=list(RECORD_COLUMNS)).astype(RECORD_COLUMNS)


def _is_log(metrics: pd.Series, grid: Grid) -> pd.Series:
    """Whether each metric is averaged on a log scale."""
    log = [name for name in metrics.dropna().unique() if quantity_of(grid, name).scale == "log"]
    return metrics.isin(log)


def _averaged(measured: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """A row for each number, indexed by group, with its mean, intervals, counts and notes."""
    groups = measured.groupby([*CELL, *NUMBER], dropna=False, sort=False).ngroup().rename("group")
    by_group = measured.groupby(groups)
    log = _is_log(measured["metric"], grid)
    means = intervals(groups, measured["task"], measured["seed"], measured["value"], log, grid.members)
    long = measured[[*CELL, *NUMBER]].groupby(groups).first()
    long = long.join(means[["value", *BOUNDS]])
    long["n_tasks"] = by_group["task"].nunique()
    long["n_seeds"] = by_group["seed"].nunique().clip(lower=1)
    long["unit"] = long["metric"].map({name: quantity_of(grid, name).unit or None for name in long["metric"].unique()})
    for unit, rows in long.groupby("unit").groups.items():
        long.loc[rows, list(BOUNDS)] = long.loc[rows, list(BOUNDS)].clip(*limits(str(unit)))
    flags = measured["flag"].dropna()
    long["flag"] = flags.groupby(groups[flags.index]).agg(lambda names: " ".join(sorted(set(names))))
    long["note"] = _notes(groups, measured)
    return long


def _notes(groups: pd.Series, measured: pd.DataFrame) -> pd.Series:
    """A note on each number: its values' own notes, how many are undefined, whether seeds make no difference."""
    size = measured.groupby(groups).size()
    notes: dict[int, list[str]] = {int(group): [] for group in size.index}
    counts = measured.groupby([groups, "note"]).size().rename("count").reset_index()
    for group, text, count in counts.itertuples(index=False):
        notes[group].append(text if count == size[group] else f"{text} ({count} of {size[group]})")
    undefined = measured["value"].isna().groupby(groups).sum()
    for group in undefined.index[undefined > 0]:
        notes[group].append(f"undefined in {undefined[group]} of {size[group]} cells")
    unseeded = measured["seed"].isna().groupby(groups).all()
    for group in unseeded.index[unseeded]:
        notes[group].append("deterministic")
    return pd.Series({group: "; ".join(texts) or None for group, texts in notes.items()}, dtype="string")


def _with_failures(long: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The board with failed cells counted, and a row for each metric whose cells all failed."""
    failures = _failures(frame)
    merged = long.merge(failures, on=CELL, how="outer", indicator=True) if len(long) else failures.assign(_merge="")
    merged = merged.reindex(columns=[*merged.columns, *(set(COLUMNS) - set(merged.columns))])
    only_failed = merged["_merge"] != "both" if len(long) == 0 else merged["_merge"] == "right_only"
    merged.loc[only_failed, ["n_tasks", "n_seeds"]] = 0
    merged["n_failed"] = merged["n_failed"].fillna(0)
    texts = zip(merged["note"], merged["failure"], strict=True)
    merged["note"] = ["; ".join(text for text in pair if not pd.isna(text)) or None for pair in texts]
    return merged.drop(columns=["_merge", "failure"])


def _failures(frame: pd.DataFrame) -> pd.DataFrame:
    """By `CELL`, `n_failed` and, as the text `failure`, of how many cells and why the first one failed."""
    by_cell = frame.assign(
        failed=frame["key"].where(frame["status"] != "ok"), reason=frame["note"].where(frame["status"] != "ok")
    )
    counts = (
        by_cell.groupby(CELL, dropna=False, sort=False)
        .agg(n_failed=("failed", "nunique"), n_cells=("key", "nunique"), reason=("reason", "first"))
        .reset_index()
    )
    counts = counts[counts["n_failed"] > 0]
    counts["failure"] = [
        f"{failed} of {cells} cells failed: {reason}"
        for failed, cells, reason in counts[["n_failed", "n_cells", "reason"]].itertuples(index=False)
    ]
    return counts.drop(columns=["n_cells", "reason"])


def _in_grid_order(long: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """Rows by defense and attacker in the grid's order, the released model first and the mean last."""
    defenses = {label: i for i, label in enumerate(grid.defenses)}
    attackers = {label: i for i, label in enumerate([*grid.attackers, MEAN])}
    place = pd.DataFrame({"defense": long["defense"].map(defenses), "attacker": long["attacker"].map(attackers)})
    place["attacker"] = place["attacker"].astype(float).fillna(-1)
    return long.loc[place.sort_values(["defense", "attacker"], kind="stable").index]


def _with_published(long: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """The board with the published values beside the numbers of whole tasks, and those that are not measured here in
    rows of their own."""
    papers = compared.rename(columns={"ours": "published_ours", "note": "published_note"})
    columns = ["published", "published_ours", "published_note"]
    places = [*CELL, *(name for name in NUMBER if name != "concept")]
    beside = papers[papers["measured_by"].notna()]
    merged = long.drop(columns=columns).merge(beside[[*places, *columns]], on=places, how="left")
    merged[columns] = merged[columns].where(merged["concept"].isna())
    alone = papers.loc[papers["measured_by"].isna(), [*places, *columns]]
    alone = alone.assign(n_tasks=0, n_seeds=0, n_failed=0, note="published only")
    both = pd.concat([merged, alone]) if len(alone) else merged
    return both.reindex(columns=list(COLUMNS)).astype(COLUMNS).reset_index(drop=True)
