"""Writes the pages of the site from templates; a board has a folder with its pages, its files and its pictures."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import itables.options
import jinja2
import pandas as pd
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from harness.files import write_text
from harness.leaderboard import plots, prediction, protection_plots
from harness.leaderboard.flags import FLAGS, flag, narrowing
from harness.leaderboard.headline import row_text, rows_of, shown
from harness.leaderboard.scores import Cells
from harness.leaderboard.searches import CAPTIONS, SearchTables
from harness.leaderboard.tables import CHANGED, CI, WEAK
from harness.registry import installed
from harness.site import charts, figures
from harness.site.view import CELL_COLUMNS, KINDS, RANKING, BoardView, Plugins, raised_flags
from harness.submission.merge import Merged

ROW_COLUMNS = {"defense": "defense", "other": "defense", "attacker": "attacker", "by": "attacker", "row": ""}
"""Columns that name a row of the suite, with its kind; empty: the column `kind` names it."""
PICTURES = {
    "Strength curves": "protection against retention, a line for each swept defense.",
    "Survival curves": "the share of cells that are not yet broken against the cost, a line for each defense.",
    "Prediction": "metrics of released models against the cost to break, a point for each defense and task.",
    "Performance profile": "the share of tasks and seeds in which each defense does at least so well.",
}
"""By heading, the text alternatives of plots; they are drawn from the cells."""
ASSETS = "assets"
Links = list[tuple[str, str | None]]
"""The texts in a field of a table, each with what it links to."""


def write(
    out: Path, sources: Mapping[str, Merged], plugins: tuple[Path, ...] = (), searches: Sequence[SearchTables] = ()
) -> None:
    """Write the site of these boards and searches into the empty folder `out`. plugins: files with further plugins and
    tracks."""
    _write_assets(out / ASSETS)
    Site(out, sources, plugins, searches).write()


def _write_assets(folder: Path) -> None:
    """Style and scripts, once for all pages; the libraries are those that their Python packages carry."""
    folder.mkdir(parents=True)
    for path in (Path(__file__).parent / "static").iterdir():
        shutil.copyfile(path, folder / path.name)
    write_text(folder / "plotly.js", get_plotlyjs())
    write_text(folder / "themes.js", f"const THEMES = {json.dumps(figures.themes())};\n")
    bundle = Path(itables.options.dt_bundle)
    shutil.copyfile(bundle.with_suffix(".css"), folder / "tables.css")
    # A page that is opened from a folder may load no module from a file, but it may import one that it holds.
    text = json.dumps(bundle.read_text(encoding="utf-8"))
    module = f"const TABLES = import(URL.createObjectURL(new Blob([{text}], {{type: 'text/javascript'}})));\n"
    write_text(folder / "tables.js", module)


class Site:
    """Writes the pages of some boards into the folder `out`."""

    def __init__(
        self, out: Path, sources: Mapping[str, Merged], plugins: tuple[Path, ...], searches: Sequence[SearchTables]
    ) -> None:
        self.out = out
        self.searches = searches
        self.date, self.version = datetime.date.today().isoformat(), importlib.metadata.version("immunebench")
        self.plugins = Plugins(installed().with_files(plugins))
        boards = [BoardView(name, loaded) for name, loaded in sources.items()]
        self.summaries = {board.name: charts.summary(board.made) for board in boards}
        self.boards = sorted(boards, key=self._place)
        self._rows = {
            (board.name, grid.name, kind, label): self.plugins.view(spec)
            for board in self.boards
            for grid in board.grids
            for kind, label, spec in grid.board.grid.rows()
        }
        for board in self.boards:
            for grid in board.grids:
                for row in grid.board.protection[0].places if grid.board.protection else ():
                    made = grid.board.grid
                    plugin = self._rows[board.name, grid.name, "defense", rows_of(made, row)[0]]
                    for text in (row, row_text(made, grid.board.protection[0], row)):
                        self._rows[board.name, grid.name, "defense", text] = plugin
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("harness.site"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"code": code, "prose": prose, "path": quote, "sentence": sentence}
        self._environment.globals |= {"KINDS": KINDS, "columns": CELL_COLUMNS, "flags": FLAGS, "site": self}
        self._environment.globals |= {
            "about": PICTURES,
            "filled": filled,
            "sort_keys": sort_keys,
            "charts_of": charts.of_grid,
            "first_charts": charts.protection,
        }

    def _place(self, board: BoardView) -> tuple[bool, bool, bool, int]:
        """The order of boards on the first page: those with costs to break, of a present submission format and of a
        whole suite come before others, then those with more values."""
        no_costs = self.summaries[board.name][1] is None
        is_part = any(narrowing(grid.board.grid) for grid in board.grids)
        return no_costs, board.loaded.records.older, is_part, -len(board.loaded.records.frame)

    def write(self) -> None:
        """Write all pages."""
        for board in self.boards:
            folder = self.out / "boards" / board.name
            folder.mkdir(parents=True)
            pictures = self._write_pictures(board, folder)
            downloads = self._write_downloads(board, folder)
            page = f"boards/{board.name}"
            self._write_page(f"{page}/index.html", "board.html", board=board, downloads=downloads, pictures=pictures)
            self._write_page(f"{page}/cells.html", "cells.html", board=board, rows=_plain_rows(board.cells))
        for plugin in self.plugins:
            rows = self._standings(plugin.kind, plugin.name)
            self._write_page(f"{plugin.kind}s/{plugin.name}.html", "plugin.html", plugin=plugin, rows=rows)
        for search in self.searches:
            page = f"searches/{search.name}.html"
            drawn = list(charts.searches(search.trials))
            self._write_page(page, "search.html", search=search, drawn=drawn, captions=CAPTIONS, plain=_unlinked)
        raised = raised_flags(self.boards)
        self._write_page("flags.html", "flags.html", raised=raised, listed=[flag(name) for name in raised])
        self._write_page("index.html", "index.html")

    def _write_page(self, path: str, template: str, **context: Any) -> None:
        root = "../" * path.count("/")
        context |= {"root": root, "links": partial(self._linker, root)}
        file = self.out / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, self._environment.get_template(template).render(context))

    @staticmethod
    def _write_pictures(board: BoardView, folder: Path) -> dict[str, dict[str, str]]:
        """Copy the contact sheets and draw the plots that are no charts: by grid, their file names by heading."""
        for sheet in board.loaded.pictures:
            shutil.copyfile(sheet, folder / sheet.name)
        drawn: dict[str, dict[str, str]] = {}
        for grid in board.grids:
            made = grid.board
            found = shown(made.protection)
            paths = {
                "Strength curves": protection_plots.strength(found, made.grid, folder),
                "Survival curves": protection_plots.survival(found, made.grid, folder),
                "Prediction": prediction.draw(made.predictions, folder),
                "Performance profile": None if made.cells is None else plots.profile(made.cells, folder),
            }
            drawn[grid.name] = {heading: path.name for heading, path in paths.items() if path is not None}
        return drawn

    @staticmethod
    def _write_downloads(board: BoardView, folder: Path) -> list[tuple[str, str]]:
        """Write the files that can be downloaded; their names with digests."""
        for name, text in board.made.csv().items():
            write_text(folder / name, text)
        for path in board.loaded.files:
            shutil.copyfile(path, folder / path.name)
        names = [*board.made.csv(), *(path.name for path in board.loaded.files)]
        return [(name, hashlib.sha256((folder / name).read_bytes()).hexdigest()) for name in names]

    def _linker(
        self, root: str, board: str, grid: str, cells: Cells | None
    ) -> Callable[[str, str, Mapping[str, Any]], Links]:
        """The function that links the fields (column, text, row) of a table of a board and grid. cells: those that its
        values are made of, if any."""

        def link(column: str, text: str, row: Mapping[str, Any]) -> Links:
            if column == "flags":
                return [(name, f"{root}flags.html#{name}") for name in text.split()]
            if column in ROW_COLUMNS:
                kind = row.get("kind", ROW_COLUMNS[column])
                plugin = self._rows.get((board, row.get("grid", grid), kind, text.partition(CHANGED)[0]))
                return [(text, f"{root}{plugin.page}" if plugin else None)]
            attacker = column.removesuffix(WEAK).partition(CHANGED)[0]
            of_attacker = {"attacker": attacker} if cells is not None and attacker in cells.scores else {}
            if cells is None or not text or not (of_attacker or column == "mean" or CI in column):
                return [(text, None)]
            defense = str(row["defense"]).partition(CHANGED)[0]
            place = urlencode({"grid": grid, "defense": defense, "measures": RANKING, **of_attacker})
            return [(text, f"{root}boards/{quote(board)}/cells.html#{place}")]

        return link

    def _standings(self, kind: str, name: str) -> list[dict[str, Any]]:
        """The standing of a plugin on every board: a row for each grid and row of the suite, and for an attacker each
        defense."""
        rows: list[dict[str, Any]] = []
        for board in self.boards:
            for grid in board.grids:
                labels = [(label, spec.call) for _, label, spec in grid.board.grid.rows(kind) if spec.name == name]
                for label, call in labels:
                    place = {"board": board, "grid": grid, "row": label, "call": call}
                    standings = grid.standing(kind, label)
                    rows += [place | standing for standing in standings if kind == "attacker" or standing["value"]]
        return rows


_NUMBER = re.compile(r"[≥≤]?(-?\d+(?:\.\d+)?(?:e[+-]\d+)?)(?![\w.])")


def sort_keys(texts: Iterable[Any]) -> list[str] | None:
    """What a column of numbers as text is sorted by; None for a column of other texts."""
    matches = [(str(text), _NUMBER.match(str(text))) for text in texts]
    if not any(match for _, match in matches) or any(text and not match for text, match in matches):
        return None
    return [match[1] if match else "" for _, match in matches]


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """A table of texts, empty where there is nothing."""
    return table.astype(object).where(table.notna(), "")


def prose(text: str | None) -> Markup:
    """A docstring in paragraphs, with what is in backticks as code."""
    parts = [part for part in re.split(r"\n\s*\n", text or "") if part.strip()]
    return Markup("").join(Markup("<p>{}</p>").format(code(part)) for part in parts)


def code(text: str) -> Markup:
    """Text with what is in backticks as code."""
    return Markup(re.sub("`+([^`]*)`+", r"<code>\1</code>", str(escape(text))))


def sentence(text: str) -> str:
    """Text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def _unlinked(column: str, text: str, row: Mapping[str, Any]) -> Links:
    return [(text, None)]


def _plain_rows(table: pd.DataFrame) -> list[list[Any]]:
    """Rows as JSON values, numbers to six digits."""
    return [[_plain_value(value) for value in row] for row in table.astype(object).itertuples(index=False)]


def _plain_value(value: Any) -> Any:
    if pd.isna(value):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value
