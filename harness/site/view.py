"""What the pages of the site show: boards, their grids, and plugins."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from harness.errors import UsageError
from harness.fields import fields
from harness.labels import file_stem
from harness.leaderboard import boards
from harness.leaderboard.boards import GridBoard
from harness.leaderboard.flags import FLAGS
from harness.leaderboard.retention import retention_rows
from harness.leaderboard.scores import QUANTITY
from harness.leaderboard.tables import CI, WEAK, interval, number, row_name, without_empty_columns
from harness.plugin import PluginSpec
from harness.records import Records
from harness.registry import Entry, Registry
from harness.submission import merge
from harness.submission.merge import Merged, Refuse
from harness.submission.run_folder import RUN
from harness.submission.tier import submissions_below

KINDS = ("defense", "attacker")
"""Kinds of plugins that have pages."""
CELL_COLUMNS = [
    "grid",
    "task",
    "defense",
    "attacker",
    "seed",
    "quantity",
    "step",
    "value",
    "measures",
    "note",
    "job",
]
"""Columns of the page of cells."""
RANKING, RETENTION = "ranking", "retention"
"""What a cell measures, in the column `measures`."""


def of_submissions(folder: Path, refuse: Refuse, plugins: Sequence[Path] = ()) -> dict[str, Merged]:
    """By folder name, the submissions of each folder, `folder` or below it, that holds some (not those that runs
    leave), but those that cannot be read. plugins: files that may hold a track. Raises `UsageError` if two folders have
    the same name, or if no submission can be read."""
    folders = submissions_below(folder)
    for name, times in Counter(inner.name for inner in folders).items():
        if times > 1:
            raise UsageError(
                f"two folders of submissions below {folder} are called '{name}', and a board has its folder's name"
            )
    sources = {inner.name: loaded for inner, loaded in merge.load_each(folders, refuse, plugins)}
    if folders and not sources:
        raise UsageError(f"no submission below {folder} can be read")
    return sources


def of_runs(folder: Path, plugins: Sequence[Path] = ()) -> dict[str, Merged]:
    """By folder name, the submission of each run folder below `folder`. plugins: files that may hold a track. Raises
    `UsageError` if there is no run or two have the same name."""
    sources: dict[str, Merged] = {}
    for path in sorted(folder.rglob(RUN)):
        name = path.parent.name
        if name in sources:
            raise UsageError(f"two runs below {folder} are called '{name}', and a board has its run's name")
        sources[name] = merge.load([path], plugins)
    if not sources:
        raise UsageError(f"no {RUN} lies below {folder}; `immunebench run` writes one")
    return sources


@dataclass(frozen=True)
class PluginView:
    """A defense or attacker that has a page. entry: None if it is not installed here."""

    kind: str
    name: str
    entry: Entry | None

    @property
    def page(self) -> str:
        """Its page, as a link from the site's folder."""
        return f"{self.kind}s/{quote(self.name)}.html"

    @cached_property
    def details(self) -> dict[str, Any]:
        """Its documentation, fields and presets; empty if it is not installed."""
        if self.entry is None:
            return {}
        cls = self.entry.load()
        return {
            "track": cls.track,
            "doc": inspect.getdoc(cls),
            "module": inspect.getdoc(inspect.getmodule(cls)),
            "fields": pd.DataFrame([text._asdict() for text in fields(cls)]),
            "presets": cls.presets,
            "control": getattr(cls, "control", False),
            "deterministic": cls.deterministic,
        }


class Plugins:
    """The plugins that have pages: those installed and those that boards name."""

    def __init__(self, registry: Registry) -> None:
        self._views = {
            (kind, entry.name): PluginView(kind, entry.name, entry) for kind in KINDS for entry in registry.all(kind)
        }

    def __iter__(self) -> Iterator[PluginView]:
        return iter(self._views.values())

    def view(self, spec: PluginSpec) -> PluginView | None:
        """The view of a board's plugin; None for a name that cannot be the name of a page."""
        if re.fullmatch(r"\w+", spec.name) is None:
            return None
        return self._views.setdefault((spec.kind, spec.name), PluginView(spec.kind, spec.name, None))


@dataclass(frozen=True)
class GridView:
    """One grid of a board, as its page shows it. sheets: file and task of each contact sheet, and the defense or the
    attacker of its pictures; None: the released models of all defenses."""

    board: GridBoard
    sheets: Sequence[tuple[str, str, str | None]]

    @property
    def name(self) -> str:
        """The grid's name."""
        return self.board.grid.name

    @property
    def flags(self) -> dict[str, list[str]]:
        """By flag that the grid raises, its rows, each once."""
        found: dict[str, dict[str, None]] = {}
        for raised in self.board.raised:
            found.setdefault(raised.flag, {})[raised.defense] = None
        return {flag: list(rows) for flag, rows in found.items()}

    @property
    def standings(self) -> pd.DataFrame:
        """The readable standings; where nothing ranks, the defenses alone."""
        if self.board.cells is not None:
            return self.board.section.tables[0][0]
        return pd.DataFrame(
            {"defense": [row_name(self.board.grid, "defense", row) for row in self.board.grid.defenses]}
        )

    @property
    def published(self) -> pd.DataFrame:
        """The papers' values beside ours."""
        rows = self.board.reproduction
        table = rows[["defense", "attacker", "metric", "role", "variant", "split", "step"]].copy()
        ends = rows.rename(columns={"ours": "value", "low": "ci_low", "high": "ci_high"})
        table["ours"] = [interval(row) for _, row in ends.iterrows()]
        for name in ("published", "pearson", "spearman"):
            table[name] = rows[name].map(number)
        return without_empty_columns(table.assign(where=rows["note"]).astype(object))

    @property
    def pairs(self) -> pd.DataFrame:
        """The readable paired comparisons; no rows where there is nothing to compare."""
        cells, rows = self.board.cells, self.board.comparisons
        if cells is None or rows is None or "difference" not in rows:
            return pd.DataFrame()
        table = rows[["defense", "other"]].copy()
        values = rows.rename(columns={"difference": "value"})
        table[f"{'ratio' if cells.log else 'difference'} {CI}"] = [interval(row) for _, row in values.iterrows()]
        for name, title in {"p_holm": "p (Holm)", "superiority": "superiority", "n_cells": "cells"}.items():
            table[title] = rows[name].map(number)
        return table.assign(separated=rows["separated"].map({True: "yes", False: "no"}))

    def standing(self, kind: str, label: str) -> Iterator[dict[str, Any]]:
        """The standing of a row: for a defense its line of the standings, for an attacker its result on each
        defense."""
        return self._defense_standing(label) if kind == "defense" else self._attacker_standing(label)

    def _defense_standing(self, label: str) -> Iterator[dict[str, Any]]:
        ranks = self.board.standings
        flags = "" if ranks is None else " ".join(ranks.loc[ranks["defense"] == label, "flags"].dropna())
        table = self.standings
        for row in table[table["defense"] == row_name(self.board.grid, "defense", label)].to_dict("records"):
            column = next((str(name) for name in row if CI in str(name)), "")
            yield {
                "rank": row.get("rank", ""),
                "quantity": column.partition(CI)[0].strip(),
                "value": row.get(column, ""),
                "mean": row.get("mean", ""),
                "flags": flags.split(),
            }

    def _attacker_standing(self, label: str) -> Iterator[dict[str, Any]]:
        name = row_name(self.board.grid, "attacker", label)
        table = self.standings
        for title in (column for column in table if column in (name, name + WEAK)):
            for row in table.to_dict("records"):
                yield {
                    "defense": row["defense"],
                    "value": row[title],
                    "weak": title != name,
                    "strongest": row.get("by") == name,
                }

    def cells(self, records: Records) -> pd.DataFrame:
        """The cells that rank, and those of what is to be retained, with columns `CELL_COLUMNS`."""
        ranking = self.board.cells.rows if self.board.cells is not None else records.frame.head(0)
        retention = retention_rows(records, self.board.grid)
        rows = pd.concat([ranking.assign(measures=RANKING), retention.assign(measures=RETENTION)])
        names = [name for name in QUANTITY if name != "measured_by"]
        texts = [
            " ".join(str(part) for part in row if not pd.isna(part)) for row in rows[names].itertuples(index=False)
        ]
        return rows.assign(quantity=texts, job=rows["key"].str[:16])[CELL_COLUMNS]


class BoardView:
    """All of one board that pages show. name: of its folder. loaded: its submissions."""

    def __init__(self, name: str, loaded: Merged) -> None:
        self.name, self.loaded = name, loaded
        self.made = boards.make(loaded.records)
        self.grids = [GridView(grid, list(self._sheets(grid))) for grid in self.made.grids]

    def _sheets(self, grid: GridBoard) -> Iterator[tuple[str, str, str | None]]:
        """A grid's contact sheets in the suite's order: of the released models, of each defense, of each attacker."""
        pictures = sorted(self.loaded.pictures)
        for task in grid.grid.members:
            for row in (None, *grid.grid.defenses, *grid.grid.attackers):
                prefix = file_stem(grid.grid.name, task, *([row] if row else []), "")
                for path in pictures:
                    if path.name.startswith(prefix) and "__" not in path.name.removeprefix(prefix):
                        yield path.name, task, row

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The cells of all grids, see `GridView.cells`."""
        return pd.concat([grid.cells(self.loaded.records) for grid in self.grids], ignore_index=True)

    @cached_property
    def calls(self) -> pd.DataFrame:
        """The call that makes each row's plugin: `grid`, `kind`, `row`, `call`."""
        rows = [
            {"grid": grid.name, "kind": kind, "row": row_name(grid.board.grid, kind, label), "call": spec.call}
            for grid in self.grids
            for kind, label, spec in grid.board.grid.rows()
        ]
        return pd.DataFrame(rows)


def raised_flags(views: Sequence[BoardView]) -> Mapping[str, list[tuple[BoardView, GridView, list[str]]]]:
    """By flag, the boards and grids that raise it, with the defenses."""
    places: dict[str, list[tuple[BoardView, GridView, list[str]]]] = {name: [] for name in FLAGS}
    for view in views:
        for grid in view.grids:
            for name, defenses in grid.flags.items():
                places.setdefault(name, []).append((view, grid, defenses))
    return places
