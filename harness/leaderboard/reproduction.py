"""Published values beside ours: on the same tasks, averaged in the same way, and how well single tasks agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from harness.leaderboard import long_form
from harness.leaderboard.scores import named, quantity_of, selected
from harness.leaderboard.stats import intervals, limits, logarithms
from harness.records import COLUMNS as RECORD_COLUMNS
from harness.records import Records
from harness.suite import Grid

NUMBER = ["defense", "attacker", "metric", "role", "variant", "split"]
"""Columns that say of which number of a grid a published value is."""
PLACE = ["suite", "suite_version", "grid", "track", "measured_by", *NUMBER, "step"]
COLUMNS: dict[str, str] = {
    **{name: RECORD_COLUMNS[name] for name in PLACE},
    "mean": "string",  # over tasks: arithmetic or geometric
    "n_tasks": "Int64",  # tasks that both have; empty: the paper has no value of a single task of the grid
    "published": "Float64",
    "ours": "Float64",  # on the same tasks, averaged in the same way; empty: not measured
    "low": "Float64",  # its 95 % interval: of other seeds or, if the paper's tasks are not ours, of other tasks as well
    "high": "Float64",
    "pearson": "Float64",  # of the paper's values of single tasks with ours, mean over seeds, on the scale of averaging
    "spearman": "Float64",
    "note": "string",
}
"""Column → pandas type."""
MIN_TASKS = 5
"""Of fewer tasks no correlation is given."""


def compare(records: Records, published: pd.DataFrame | None) -> pd.DataFrame:
    """A row for each published value of a number that a suite measures, with columns `COLUMNS`.

    published: see `published.PUBLISHED`; None: there are none. Where a paper has values of single tasks of the grid,
    those of the tasks that both have are averaged as the board averages the quantity, on either side. Else the paper's
    own mean is compared with the same kind of mean of ours, else the mean over the paper's tasks, which are not ours.
    A quantity that is measured here, but only by another variant (because an encoder is not available), has a row
    without ours.
    """
    rows = [row for grid in records.suite.grids for row in _of_grid(records, grid, published)]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def _of_grid(records: Records, grid: Grid, published: pd.DataFrame | None) -> Iterator[dict[str, Any]]:
    papers = None if published is None else published[published["setting"] == grid.name]
    if papers is None or papers.empty:
        return
    measured = long_form.measured(records, grid)
    at = {"suite": records.suite.name, "suite_version": records.suite.version, "grid": grid.name, "track": grid.track}
    for number, values in papers.groupby(NUMBER, dropna=False, sort=False):
        place = {
            name: None if pd.isna(part) else part for name, part in zip(NUMBER, tuple[Any, ...](number), strict=True)
        }
        ours = measured[selected(measured, place)]
        for label, rows in ours.groupby("measured_by"):
            last = rows["step"].isna() | (rows["step"] == rows["step"].max()).fillna(True)
            yield {**at, "measured_by": label, **place, **_compared(values, rows[last], grid)}
        by_others = {name: place[name] for name in ("defense", "attacker", "metric")}
        if ours.empty and selected(measured, by_others).any():
            yield {**at, **place, **_compared(values, ours, grid)}


def _compared(papers: pd.DataFrame, ours: pd.DataFrame, grid: Grid) -> dict[str, Any]:
    """The comparison of one number. papers: its published values. ours: its records at the last step."""
    quantity = quantity_of(grid, str(papers["metric"].iloc[0]))
    usual = "geometric" if quantity.scale == "log" else "arithmetic"
    single, whole = papers[papers["task"].isin(list(grid.members))], papers[papers["task"].isna()]
    note = ""
    if len(single):
        ours = ours[ours["task"].isin(single["task"])].dropna(subset="value")
        papers = single[single["task"].isin(ours["task"])] if len(ours) else single
        note = f"; {usual} mean of {len(papers)} tasks" if len(papers) > 1 else f"; task {papers['task'].iloc[0]}"
    elif len(whole):  # of two means the one that the board takes
        papers = whole.loc[[whole["mean"].fillna(usual).eq(usual).idxmax()]]
    else:
        several, one = f"{usual} mean of {len(papers)} tasks that are", f"task {papers['task'].iloc[0]}, which is"
        note = f"; {several if len(papers) > 1 else one} not ours"
    mean = papers["mean"].fillna(usual).iloc[0]
    log = mean == "geometric"
    row: dict[str, Any] = {"step": ours["step"].max(), "mean": mean, "note": _where(papers) + note}
    theirs = _scaled(papers["value"], log).mean()
    row["published"] = papers["value"].iloc[0] if len(papers) == 1 else np.exp(theirs) if log else theirs
    if len(single):
        row |= {"n_tasks": len(papers), **_correlations(papers, ours, log)}
    if len(ours):
        same, scale = pd.Series(0, ours.index), pd.Series(log, ours.index)
        value = intervals(same, ours["task"], ours["seed"], ours["value"], scale, grid.members).loc[0]
        ends = ["ci_low", "ci_high"] if len(single) or len(whole) else ["tasks_low", "tasks_high"]
        row |= dict(zip(("low", "high"), value[ends].clip(*limits(quantity.unit)), strict=True), ours=value["value"])
    return row


def _scaled(values: pd.Series, log: bool) -> pd.Series:
    return logarithms(values) if log else values.astype(float)


def _where(papers: pd.DataFrame) -> str:
    """Where published values are in the paper, with the paper's note."""
    paper, table, note = papers[["paper", "table", "note"]].iloc[0]
    return f"{paper}, {table}" if pd.isna(note) else f"{paper}, {table}: {note}"


def _correlations(papers: pd.DataFrame, ours: pd.DataFrame, log: bool) -> dict[str, float]:
    """The correlations of the values of single tasks; none of fewer than `MIN_TASKS`, or if all of a side are equal."""
    theirs = _scaled(papers["value"], log).groupby(papers["task"]).mean()
    means = _scaled(ours["value"], log).groupby(ours["task"]).mean()
    pairs = pd.DataFrame({"theirs": theirs, "ours": means}).dropna()
    if len(pairs) < MIN_TASKS or pairs.nunique().min() < 2:
        return {}
    ranks = pairs.rank()
    return {"pearson": pairs["theirs"].corr(pairs["ours"]), "spearman": ranks["theirs"].corr(ranks["ours"])}


def lines(compared: pd.DataFrame, grid: Grid) -> Iterator[str]:
    """Lines of text on a grid's rows of `compare`: how well single tasks agree with the paper's, and where the
    published values are."""
    coordinates = ["metric", "role", "variant", "split", "attacker"]
    for at, rows in compared.dropna(subset="pearson").groupby(coordinates, dropna=False, sort=False):
        number = named(grid, dict(zip(coordinates, tuple[Any, ...](at), strict=True)))
        scale = ", on a log scale" if (rows["mean"] == "geometric").all() else ""
        texts = [
            f"{row['defense']} {row['pearson']:.2f} ({row['spearman']:.2f}; {row['n_tasks']} tasks)"
            for _, row in rows.iterrows()
        ]
        yield (
            f"agreement with the paper on {number} of single tasks{scale}: correlation of our means over seeds with "
            f"the published values (rank correlation): {', '.join(texts)}"
        )
    yield from (f"published: {note}" for note in compared["note"].unique())
