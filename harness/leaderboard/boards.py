"""Boards: everything that is computed of one suite's records, and the files that it is written to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from harness import published
from harness.errors import printable
from harness.files import write_text
from harness.labels import LARGEST_FLOAT
from harness.leaderboard import (
    flags,
    headline,
    long_form,
    plots,
    prediction,
    protection,
    protection_plots,
    reproduction,
    scores,
    section,
)
from harness.leaderboard.contrasts import contrasts
from harness.leaderboard.flags import Raised, flags_of_rows
from harness.leaderboard.latex import latex
from harness.leaderboard.markdown import markdown
from harness.leaderboard.prediction import Prediction
from harness.leaderboard.protection import Protection
from harness.leaderboard.scores import Cells
from harness.leaderboard.section import Section
from harness.leaderboard.standings import comparisons, standings
from harness.leaderboard.strength import strengths
from harness.leaderboard.strongest import shares
from harness.records import Records
from harness.registry import Registry, installed
from harness.suite import Grid, Suite
from harness.track import Track


@dataclass(frozen=True)
class GridBoard:
    """One grid of a board. long: see `long_form.board`. reproduction: see `reproduction.compare`. cells, comparisons,
    standings: see `scores` and `standings`; None where nothing ranks. protection: against each threat model.
    contrasts: between threat models, see `contrasts.COLUMNS`. raised: its flags. predictions: see `prediction`.
    section: as people read it, without pictures. track: None if it is not installed."""

    grid: Grid
    long: pd.DataFrame
    reproduction: pd.DataFrame
    cells: Cells | None
    comparisons: pd.DataFrame | None
    standings: pd.DataFrame | None
    protection: Sequence[Protection]
    contrasts: pd.DataFrame
    raised: Sequence[Raised]
    predictions: Sequence[Prediction]
    section: Section
    track: Track | None


@dataclass(frozen=True)
class Board:
    """The board of one suite. title: see `title`. note: a line below the title: how far the records were
    checked."""

    records: Records
    grids: Sequence[GridBoard]
    title: str
    note: str

    @property
    def long(self) -> pd.DataFrame:
        """The long-form board of all grids."""
        return pd.concat([grid.long for grid in self.grids], ignore_index=True)

    @property
    def standings(self) -> pd.DataFrame:
        """A row for each grid and defense; empty if no grid has a ranking."""
        return _concatenated([grid.standings for grid in self.grids])

    @property
    def comparisons(self) -> pd.DataFrame:
        """A row for each grid and pair of defenses; empty if no grid has a ranking."""
        return _concatenated([grid.comparisons for grid in self.grids])

    @property
    def protection(self) -> pd.DataFrame:
        """A row for each grid, threat model and defense, see `protection.COLUMNS`; empty if no cost to break is
        known."""
        return _concatenated([one.listed for grid in self.grids for one in grid.protection])

    @property
    def protection_comparisons(self) -> pd.DataFrame:
        """A row for each grid, threat model and pair of defenses: their costs to break at equal retention, see
        `standings.comparisons`."""
        models = [one for grid in self.grids for one in grid.protection]
        return _concatenated([one.compared.assign(threat_model=one.costs.name) for one in models])

    @property
    def contrasts(self) -> pd.DataFrame:
        """How much longer each defense delays the attacks of a grid's first threat model than those of the others, see
        `contrasts.COLUMNS`."""
        return _concatenated([grid.contrasts for grid in self.grids])

    @property
    def strengths(self) -> pd.DataFrame:
        """The points of strength curves, see `strength.COLUMNS`, of the grids with sweeps."""
        models = [one for grid in self.grids if grid.grid.sweeps for one in grid.protection]
        return _concatenated([strengths(one) for one in models])

    @property
    def strongest(self) -> pd.DataFrame:
        """A row for each grid, threat model, attacker and defense: in which cells the attacker is the strongest, see
        `strongest.COLUMNS`; empty if no cost to break is known."""
        return _concatenated([shares(one.costs) for grid in self.grids for one in grid.protection])

    @property
    def reproduction(self) -> pd.DataFrame:
        """The published values beside ours, a row for each; empty if there are none."""
        return _concatenated([grid.reproduction for grid in self.grids if len(grid.reproduction)])

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By grid, its first readable table: the headline, else the standings or, where nothing ranks, the values."""
        return {grid.grid.name: (grid.section.headline or grid.section.tables[0])[0] for grid in self.grids}

    @property
    def verdict(self) -> dict[str, str]:
        """By grid, the sentences that its data bear out."""
        return {grid.grid.name: grid.section.verdict for grid in self.grids}

    @property
    def flag_lines(self) -> dict[str, list[str]]:
        """By grid, a line for each flag: its rows, its meaning and advice."""
        return {grid.grid.name: list(flags.listing(grid.raised, list(grid.grid.defenses))[1]) for grid in self.grids}

    def intervals(self, grid: str, width: float | None = None) -> Figure | None:
        """The picture of a grid's costs to break, see `protection_plots.intervals`; None where none is known."""
        (found,) = (one.protection for one in self.grids if one.grid.name == grid)
        return protection_plots.intervals(headline.shown(found), width)

    def markdown(self, pictures: Sequence[str] = ()) -> str:
        """The readable board as Markdown. pictures: links to files, shown with the grid that their names begin with."""
        return markdown(self._sections(pictures), self.title, self.note)

    @property
    def text(self) -> str:
        """The readable board for a terminal: Markdown in which nothing is escaped but what commands a terminal."""
        return markdown(self._sections(), self.title, self.note, printable)

    def latex(self) -> str:
        """The readable board's tables as LaTeX."""
        return latex(self._sections(), self.title)

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all grids. Columns: `grid`; `kind`, defense or attacker; `row`, its label; `call`, which makes
        its plugin; `control`; `changed`, how its settings differ from the suite file's; where some rows were checked
        less than others, `tier`, see `Records.tiers`."""
        tiers = self.records.tiers
        return pd.DataFrame(
            {
                "grid": grid.name,
                "kind": kind,
                "row": label,
                "call": spec.call,
                "control": grid.control(label) if kind == "defense" else None,
                "changed": "; ".join(grid.changes_of(kind, label)),
                **({"tier": tiers.get((grid.name, kind, label), "")} if tiers else {}),
            }
            for grid in self.records.suite.grids
            for kind, label, spec in grid.rows()
        )

    def csv(self) -> dict[str, str]:
        """The long forms as CSV, by file name; where nothing ranks there are no standings and comparisons, where no
        cost to break is known no protection and no strongest attackers, with one threat model no contrasts, without
        sweeps no strength, without published values no reproduction, and without predictors no prediction."""
        frames = {
            "leaderboard": self.long,
            "rows": self.rows,
            "protection": self.protection,
            "protection_comparisons": self.protection_comparisons,
            "contrasts": self.contrasts,
            "strength": self.strengths,
            "strongest": self.strongest,
            "standings": self.standings,
            "comparisons": self.comparisons,
            "reproduction": self.reproduction,
            "prediction": _concatenated([prediction.table(grid.predictions) for grid in self.grids]),
        }
        return {f"{name}.csv": as_csv(frame) for name, frame in frames.items() if len(frame.columns)}

    def _sections(self, pictures: Sequence[str] = ()) -> list[Section]:
        by_grid = pictures_by_grid(pictures, [grid.grid.name for grid in self.grids])
        return [replace(grid.section, pictures=by_grid[grid.grid.name]) for grid in self.grids]


def as_csv(frame: pd.DataFrame) -> str:
    """A table as CSV in which no text is a formula of a spreadsheet, or ends a row: a quote precedes what would begin a
    formula."""
    texts = frame.select_dtypes(["object", "string"])
    safe = {str(name): texts[name].map(_field, na_action="ignore") for name in texts}
    return frame.assign(**safe).to_csv(index=False)


_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\n")
"""Letters with which a spreadsheet's formula may begin; so may their wide forms."""


def _field(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" * value.startswith(_FORMULA) + value).replace("\r", " ")


def make(records: Records) -> Board:
    """The board of records, without a file written. The published values and the plugin files, one of which may hold a
    track, are those of the records' suite. Values beyond `LARGEST_FLOAT`, as of an attack that diverged, are
    undefined."""
    suite, values = records.suite, records.frame["value"]
    records = replace(records, frame=records.frame.assign(value=values.where(values.abs() <= LARGEST_FLOAT)))
    registry = installed().with_files(suite.plugins)
    compared = reproduction.compare(records, published.read(suite.published) if suite.published else None)
    long = long_form.board(records, compared)
    ranked = scores.read(records)
    grids = [
        _grid_board(
            records,
            grid,
            long[long["grid"] == grid.name],
            compared[compared["grid"] == grid.name],
            ranked.get(grid.name),
            registry,
        )
        for grid in suite.grids
    ]
    return Board(records, grids, title(records), f"Tier: {records.tier}." if records.tier else "")


def _grid_board(
    records: Records,
    grid: Grid,
    long: pd.DataFrame,
    papers: pd.DataFrame,
    cells: Cells | None,
    registry: Registry,
) -> GridBoard:
    compared = None if cells is None else comparisons(cells.compared)
    ranks = None if cells is None or compared is None else standings(cells, compared)
    found = protection.read(records, grid)
    raised = flags.raise_flags(records, grid, cells, compared, found, papers)
    long = long.assign(flags=pd.array(flags_of_rows(raised, long), "string"))
    if ranks is not None:
        ranks = ranks.assign(flags=pd.array(flags_of_rows(raised, ranks), "string")).reset_index(drop=True)
    known = [entry.name for entry in registry.all("track")]
    track = registry.track(grid.track) if grid.track in known else None
    predictions = prediction.read(records, grid, {one.costs.name: one.costs for one in found})
    between = contrasts(found)
    readable = section.make(records, grid, long, papers, cells, ranks, raised, predictions, track, found, between)
    return GridBoard(grid, long, papers, cells, compared, ranks, found, between, raised, predictions, readable, track)


def title(records: Records) -> str:
    """The title line of a board: `digits (version 2), part: 2 of 13 defenses; adam lr=0.1`."""
    suite = records.suite
    parts = [f"{suite.name} (version {suite.version})"]
    narrowed = _changes(suite, flags.narrowing)
    if changes := [*narrowed, *_changes(suite, flags.changed_tasks), *_changes(suite, flags.changed_rows)]:
        parts.append(f"{'part' if narrowed else 'changed'}: {'; '.join(changes)}")
    parts += ["of an older submission format"] if records.older else []
    return ", ".join(parts)


def _changes(suite: Suite, select: Callable[[Grid], list[str]]) -> list[str]:
    """The changes that `select` gives for each grid of a suite; those that all its grids have are named once."""
    grids: dict[str, list[str]] = {}
    for grid in suite.grids:
        for change in select(grid):
            grids.setdefault(change, []).append(grid.name)
    return [
        change if len(names) == len(suite.grids) else f"{', '.join(names)}: {change}" for change, names in grids.items()
    ]


def write(board: Board, out: Path, sheets: Sequence[Path] = (), at: Path | None = None) -> None:
    """Write the Markdown, LaTeX, CSV files and plots into the folder `out`. sheets: contact sheets, which the Markdown
    links to where they lie. at: the folder into which the files are moved; None: they stay in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = [path.name for path in draw(board, out)]
    for name, text in texts(board, [*drawn, *links(sheets, at or out)]).items():
        write_text(out / name, text)


def texts(board: Board, pictures: Sequence[str]) -> dict[str, str]:
    """The contents of a board's files but its pictures, by file name. pictures: links to all of its pictures."""
    readable = {"leaderboard.md": board.markdown(pictures), "leaderboard.tex": board.latex()}
    return {**readable, **board.csv()}


def draw(board: Board, out: Path) -> Iterator[Path]:
    """Draw the plots of a board into the folder `out`: of each grid those of its protection, the predictions, its
    performance profile, its curves and its track's plots. Yields the files."""
    for grid in board.grids:
        frame = board.records.of(grid.grid)
        profile = None if grid.cells is None else plots.profile(grid.cells, out)
        predicted = prediction.draw(grid.predictions, out)
        curves = plots.curves(grid.long, grid.grid, out, () if grid.track is None else grid.track.curves)
        yield from protection_plots.draw(grid.protection, grid.grid, out)
        yield from (picture for picture in (predicted, profile, curves) if picture)
        yield from [] if grid.track is None else grid.track.plots(frame, out)


def links(files: Sequence[Path], folder: Path) -> list[str]:
    """Files as links relative to a folder."""
    return [Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix() for file in files]


def pictures_by_grid(pictures: Sequence[str], grids: Sequence[str]) -> Mapping[str, list[str]]:
    """Links to pictures by the grid that they show: the one with the longest name that the file's name begins with;
    plots first, then contact sheets, each by name."""
    by_grid: dict[str, list[str]] = {name: [] for name in grids}
    for picture in sorted(pictures, key=lambda link: ("__" in link, link)):
        file = picture.rpartition("/")[2]
        owners = [name for name in grids if file.startswith(f"{name}_")]
        if owners:
            by_grid[max(owners, key=len)].append(picture)
    return by_grid


def _concatenated(frames: Sequence[pd.DataFrame | None]) -> pd.DataFrame:
    present = [frame for frame in frames if frame is not None]
    return pd.concat(present, ignore_index=True) if present else pd.DataFrame()
