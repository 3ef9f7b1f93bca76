"""One grid of a board as people read it: tables, notes and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.leaderboard import contrasts, headline, prediction, reproduction, strength, strongest
from harness.leaderboard.flags import Raised, listing
from harness.leaderboard.prediction import Prediction
from harness.leaderboard.protection import Protection
from harness.leaderboard.scores import Cells
from harness.leaderboard.tables import default_table, marked, standings_table, with_failures, with_row_names
from harness.leaderboard.verdict import verdict
from harness.records import Records
from harness.suite import Grid
from harness.track import Track


@dataclass(frozen=True)
class Section:
    """One grid. tables: each with the text below it. notes: lines of a list below the tables. pictures: files, as
    links that are relative to the board's folder. verdict: sentences that come first. headline: the first table, with
    the text below it; None where no cost to break is known. details: further tables of the headline, each with its
    title and the text below it. shared: lines of a list above the tables: flags that all rows have."""

    title: str
    tables: Sequence[tuple[pd.DataFrame, str]]
    notes: Sequence[str]
    pictures: Sequence[str] = ()
    verdict: str = ""
    headline: tuple[pd.DataFrame, str] | None = None
    details: Sequence[tuple[str, pd.DataFrame, str]] = ()
    shared: Sequence[str] = ()


def make(
    records: Records,
    grid: Grid,
    long: pd.DataFrame,
    papers: pd.DataFrame,
    cells: Cells | None,
    standings: pd.DataFrame | None,
    raised: Sequence[Raised],
    predictions: Sequence[Prediction],
    track: Track | None,
    found: Sequence[Protection],
    between: pd.DataFrame,
) -> Section:
    """The section of a grid, without pictures. long: its long-form board. papers: the published values beside ours (see
    `reproduction.compare`). cells, standings: None where nothing ranks. predictions: see `prediction`. track: None if
    it is not installed. found: the protection against each threat model.
    between: the contrasts of these."""
    order = list(grid.defenses) if standings is None else list(standings["defense"])
    place = long["defense"].map({defense: i for i, defense in enumerate(order)})
    long = long.loc[place.sort_values(kind="stable").index]
    flags, lines = listing(raised, order)
    shared, some = ([line for line, of_all in lines.items() if of_all is wanted] for wanted in (True, False))
    tables = []
    if cells is not None and standings is not None:
        tables.append(standings_table(cells, standings, flags))
    for table, below in _value_tables(long, grid, track):
        tables.append((with_row_names(with_failures(table, records, grid), grid), below))
    title = f"{grid.name} (track {grid.track})"
    notes = [*grid.notes, *_changes(grid), *_calls(grid), *some, *reproduction.lines(papers, grid)]
    notes += [*prediction.lines(predictions), *strength.lines(records, grid)]
    first = headline.headline(found, grid, flags)
    if first is None and (line := headline.ensemble_line(grid)):
        notes.append(line.strip())
    details = [("In full", *headline.in_full(found, grid, long))] if first else []
    if first and (power := headline.power(found)) is not None:
        details.append(("Power", *power))
    if first and len(between):
        details.append(("Between threat models", *contrasts.readable(between, grid)))
    if (spent := headline.spent(records.frame[records.frame["grid"] == grid.name], grid)) is not None:
        details.append(("Cost of the attacks", *spent))
    if (ahead := strongest.table([one.costs for one in found], grid)) is not None:
        details.append(("The strongest attackers", *ahead))
    return Section(title, tables, notes, verdict=verdict(grid, found), headline=first, details=details, shared=shared)


def _value_tables(long: pd.DataFrame, grid: Grid, track: Track | None) -> Iterator[tuple[pd.DataFrame, str]]:
    """The track's own table and one of what further metric plugins measured; else the default table of everything."""
    own = track.table(long) if track is not None else None
    if track is None or own is None:
        yield default_table(long, grid), "" if track else "The track is not installed here: this is the default table."
        return
    yield own.drop(columns="grid", errors="ignore"), own.attrs.get("caption", "")
    further_labels = [label for label, spec in grid.metrics.items() if spec.name not in track.metrics]
    further = long[long["measured_by"].isin(further_labels)]
    if further["value"].notna().any():
        yield default_table(further, grid), "Values of metric plugins beside the track's own."


def _changes(grid: Grid) -> Iterator[str]:
    """A line for each changed row."""
    for kind, label, _ in grid.rows():
        if changes := grid.changes_of(kind, label):
            yield f"{marked(grid, kind, label)} is changed: {', '.join(changes)}"


def _calls(grid: Grid) -> Iterator[str]:
    """A line for each row with the call that makes its plugin."""
    yield from (f"{kind} {marked(grid, kind, label)}: {spec.call}" for kind, label, spec in grid.rows())
