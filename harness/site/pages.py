"""The pages of the site, made of templates; a board has a folder with its pages, its files and its pictures."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import itables.options
import jinja2
import pandas as pd
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from harness import leaderboard
from harness.cli.reference import fields
from harness.errors import UsageError
from harness.leaderboard import profiles
from harness.leaderboard.flags import FLAGS
from harness.leaderboard.formats import Section
from harness.leaderboard.scores import FIGURE, Cells
from harness.leaderboard.tables import interval, number
from harness.registry import Catalogue, Entry
from harness.site import charts
from harness.site.charts import Chart
from harness.site.view import Source

KINDS = ("defense", "attacker")
CELL_COLUMNS = ["grid", "task", "defense", "attacker", "seed", "figure", "step", "value", "measures", "note", "job"]
NAMING = {"defense": "defense", "other": "defense", "attacker": "attacker", "by": "attacker", "row": ""}
"""Columns that name a plugin's row, of which kind."""
CI = "[95 %]"
"""How the title of a figure with its interval ends."""
ASSETS = "assets"
Links = list[tuple[str, str | None]]
"""What stands in a field of a table: texts, each with what it links to."""


@dataclass(frozen=True)
class Plugin:
    """A defense or attacker that has a page; entry: None if it is not installed here."""

    kind: str
    name: str
    entry: Entry | None

    @property
    def page(self) -> str:
        return f"{self.kind}s/{quote(self.name)}.html"

    @cached_property
    def told(self) -> dict[str, Any]:
        """What it says of itself."""
        if self.entry is None:
            return {}
        cls = self.entry.load()
        return {
            "track": cls.track, "doc": inspect.getdoc(cls), "module": inspect.getdoc(inspect.getmodule(cls)),
            "fields": pd.DataFrame([field._asdict() for field in fields(cls)]), "presets": cls.presets,
            "control": getattr(cls, "control", False), "deterministic": cls.deterministic,
        }  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """One grid of a board, as its page shows it. cells: None where nothing judges. others: charts against steps of
    figures that do not judge. pictures: file, task and defense of each contact sheet. profile: a picture."""

    name: str
    section: Section
    stood: pd.DataFrame
    compared: pd.DataFrame
    board: pd.DataFrame
    cells: Cells | None
    charts: Mapping[str, list[Chart]]
    others: Sequence[Chart]
    pictures: Sequence[tuple[str, str, str]]
    profile: str | None

    @property
    def standing(self) -> pd.DataFrame:
        """The standings as they are read; where nothing judges, the defenses alone."""
        return self.section.tables[0][0] if self.cells is not None else self.board[["defense"]].drop_duplicates()

    @property
    def published(self) -> pd.DataFrame:
        """The papers' figures beside ours."""
        rows = self.board[self.board["published"].notna()]
        table = rows[["defense", "attacker", "metric", "role", "policy", "split", "step"]].copy()
        table["ours"] = [interval(row) for _, row in rows.iterrows()]
        table["published"] = rows["published"].map(number)
        table["where"] = rows["published_note"]
        return table.dropna(axis=1, how="all")

    @property
    def pairs(self) -> pd.DataFrame:
        """The paired comparisons, as they are read."""
        rows = self.compared
        if "difference" not in rows:  # nothing to compare
            return rows.head(0)
        what = "ratio" if self.cells is not None and self.cells.log else "difference"
        table = rows[["defense", "other"]].copy()
        table[f"{what} [95 %]"] = [interval(row) for _, row in rows.rename(columns={"difference": "value"}).iterrows()]
        for name, title in {"p_holm": "p (Holm)", "superiority": "superiority", "n_cells": "cells"}.items():
            table[title] = rows[name].map(number)
        return table.assign(separated=rows["separated"].map({True: "yes", False: "no"}))


class Board:
    """All of one board that pages show."""

    def __init__(self, source: Source, out: Path, plugins: tuple[Path, ...]) -> None:
        self.source, self.out = source, out
        self.made = leaderboard.make(source.records, source.published, plugins=plugins)
        names = map(str, source.records["grid"].unique())
        self.grids = [self._grid(name, section) for name, section in zip(names, self.made.sections, strict=True)]

    def _grid(self, name: str, section: Section) -> Grid:
        stood, compared, board, rows = (
            of[of["grid"] == name] if "grid" in of else of
            for of in (self.made.standings, self.made.comparisons, self.made.board, self.source.records)
        )
        of = self.made.judged.get(name)
        kept = rows.loc[rows["judged"] == "kept", FIGURE].drop_duplicates()
        drawn = charts.judged(of, stood, board, kept) if of is not None else {}
        log = set(rows.loc[rows["scale"] == "log", "metric"])
        by_steps = board[board["metric"] == of.figure["metric"]] if of is not None else board.head(0)
        drawn["Against steps"] = list(charts.curves(by_steps, log, of))
        others = list(charts.curves(board.drop(by_steps.index), log, of))
        profile = profiles.draw(of, self.out / f"{name}_profile") if of is not None else []
        for path in profile[1:]:  # of many tasks the SVG is the larger one
            path.unlink()
        return Grid(name, section, stood, compared, board, of, drawn, others, list(self._pictures(name, rows)),
                    profile[0].name if profile else None)  # fmt: skip

    def _pictures(self, grid: str, records: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
        """The contact sheets of a grid, copied; in the suite's order, in which the undefended model comes first."""
        files = sorted(self.source.pictures.glob("*.png")) if self.source.pictures else []
        for task, defense in records[["task", "defense"]].drop_duplicates().itertuples(index=False):
            for path in files:
                if path.name.startswith(f"{grid}__{task}__{defense}__".replace("/", "_")):
                    shutil.copyfile(path, self.out / path.name)
                    yield path.name, task, defense

    @cached_property
    def judging(self) -> pd.DataFrame:
        """The records by which this board judges, and those of what is to be kept."""
        rows = self.source.records[self.source.records["judged"].notna()]
        what = rows[FIGURE].apply(lambda figure: " ".join(figure.dropna()), axis=1) if len(rows) else ""
        return rows.assign(**{
            "figure": what, "job": rows["key"].str[:16], "measures": rows["judged"].map(
                {"higher": "protection", "lower": "protection", "kept": "what is kept"}),
        })[CELL_COLUMNS]  # fmt: skip

    @cached_property
    def calls(self) -> pd.DataFrame:
        """Which call each row's plugin was made by."""
        records = self.source.records
        every = [
            records[["grid", kind, f"{kind}_call"]].dropna().drop_duplicates()
            .set_axis(["grid", "row", "call"], axis=1).assign(kind=kind)
            for kind in KINDS
        ]  # fmt: skip
        return pd.concat(every, ignore_index=True)[["grid", "kind", "row", "call"]]

    def download(self) -> list[tuple[str, str]]:
        """Write what can be downloaded; names with digests."""
        for path in self.source.files:
            shutil.copyfile(path, self.out / path.name)
        names = [*self.made.save(self.out), *(path.name for path in self.source.files)]
        return [(name, hashlib.sha256((self.out / name).read_bytes()).hexdigest()) for name in names]


class Site:
    """Writes pages into a folder."""

    def __init__(self, out: Path, sources: Sequence[Source], plugins: tuple[Path, ...]) -> None:
        self.out = out
        self.plugins = {
            (kind, entry.attribute): Plugin(kind, entry.name, entry)
            for kind in KINDS for entry in Catalogue(plugins).all(kind)
        }  # fmt: skip
        for source in sources:
            (out / "boards" / source.name).mkdir(parents=True)
        self.boards = [Board(source, out / "boards" / source.name, plugins) for source in sources]
        self.rows = {
            (board.source.name, grid, kind, row): self._plugin(kind, call)
            for board in self.boards for grid, kind, row, call in board.calls.itertuples(index=False)
        }  # fmt: skip
        loader = jinja2.PackageLoader("harness.site")
        environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined,
                                         trim_blocks=True, lstrip_blocks=True)  # fmt: skip
        environment.filters |= {"code": code, "prose": prose, "path": quote,
                                "sentence": lambda text: text[:1].upper() + text[1:]}  # fmt: skip
        environment.globals |= {"KINDS": KINDS, "columns": CELL_COLUMNS, "flags": FLAGS, "site": self}
        environment.globals |= {"filled": filled, "order": order}
        self.environment = environment

    def _plugin(self, kind: str, call: str) -> Plugin | None:
        """Whose call it is; one that is not installed is known by its class. None: no call, whoever wrote it."""
        name = call.partition("(")[0]
        if not name.isidentifier():
            return None
        return self.plugins.setdefault((kind, name), Plugin(kind, name, None))

    def page(self, path: str, template: str, **context: Any) -> None:
        """Write one page."""
        context["root"] = "../" * path.count("/")
        context["links"] = partial(partial, self.links, context["root"])
        where = self.out / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(self.environment.get_template(template).render(context), encoding="utf-8")

    def write(self) -> None:
        """Write all pages."""
        for board in self.boards:
            folder = f"boards/{board.source.name}"
            self.page(f"{folder}/index.html", "board.html", board=board, downloads=board.download())
            self.page(f"{folder}/cells.html", "cells.html", board=board, rows=_plain(board.judging))
        for plugin in self.plugins.values():
            self.page(f"{plugin.kind}s/{plugin.name}.html", "plugin.html", plugin=plugin, rows=self.standing(plugin))
        self.page("flags.html", "flags.html", raised=self.raised())
        self.page("index.html", "index.html")

    def links(
        self, root: str, board: str, grid: str, cells: Cells | None, column: str, text: str,
        row: Mapping[str, Any],
    ) -> Links:  # fmt: skip
        """What stands in a field of a table: plugins lead to their pages, flags to theirs, and figures that are made of
        `cells`, if any, to these."""
        if column == "flags":
            return [(name, f"{root}flags.html#{name}") for name in text.split()]
        if column in NAMING:
            plugin = self.rows.get((board, row.get("grid", grid), row.get("kind", NAMING[column]), text))
            return [(text, f"{root}{plugin.page}" if plugin else None)]
        if cells is None or not text:
            return [(text, None)]
        attacker = column.removesuffix(" (weak)")
        by = {"attacker": attacker} if attacker in cells.scores else {}
        if not (by or column == "mean" or column.endswith(CI)):
            return [(text, None)]
        at = urlencode({"grid": grid, "defense": row["defense"], "measures": "protection", **by})
        return [(text, f"{root}boards/{quote(board)}/cells.html#{at}")]

    def standing(self, plugin: Plugin) -> list[dict[str, Any]]:
        """How a plugin stands on every board, a row a grid and row of the suite (and, of an attacker, defense)."""
        found = []
        for board in self.boards:
            for grid, kind, row, call in board.calls.itertuples(index=False):
                if self._plugin(kind, call) is plugin:
                    of = next(of for of in board.grids if of.name == grid)
                    found += [{"board": board, "grid": of, "row": row, "call": call, **told}
                              for told in (_stands if kind == "defense" else _leaves)(of, row)]  # fmt: skip
        return found

    def raised(self) -> dict[str, list[tuple[Board, Grid, list[str]]]]:
        """By flag, the boards and grids that raise it, with the defenses."""
        found: dict[str, list[tuple[Board, Grid, list[str]]]] = {name: [] for name in FLAGS}
        for board in self.boards:
            for grid in board.grids:
                rows = grid.board[["defense", "flags"]].dropna().drop_duplicates()
                for name, places in found.items():
                    defenses = [str(row) for row, of in rows.itertuples(index=False) if name in of.split()]
                    if defenses:
                        places.append((board, grid, list(dict.fromkeys(defenses))))
        return found


def build(out: Path, sources: Sequence[Source], plugins: tuple[Path, ...] = ()) -> None:
    """Write the site of these boards into `out`, in place of one that is there. plugins: files with further ones.
    Raises `UsageError` if `out` holds anything else."""
    if out.is_dir() and any(out.iterdir()):
        if not (out / ASSETS / "site.js").is_file():
            raise UsageError(f"{out} holds something that is no site of boards; choose another folder")
        shutil.rmtree(out)
    _assets(out / ASSETS)  # first, so that one that was cut off can be made anew
    Site(out, sources, plugins).write()


def _assets(folder: Path) -> None:
    """Style and scripts, once for all pages; the libraries are those that their Python packages carry."""
    folder.mkdir(parents=True)
    for path in (Path(__file__).parent / "static").iterdir():
        shutil.copyfile(path, folder / path.name)
    (folder / "plotly.js").write_text(get_plotlyjs(), encoding="utf-8")
    (folder / "themes.js").write_text(f"const THEMES = {json.dumps(charts.themes())};\n", encoding="utf-8")
    bundle = Path(itables.options.dt_bundle)
    shutil.copyfile(bundle.with_suffix(".css"), folder / "tables.css")
    # A page that is opened from a folder may load no module from a file, but it may import one that it holds.
    text = json.dumps(bundle.read_text(encoding="utf-8"))
    loaded = f"const TABLES = import(URL.createObjectURL(new Blob([{text}], {{type: 'text/javascript'}})));\n"
    (folder / "tables.js").write_text(loaded, encoding="utf-8")


def _stands(grid: Grid, row: str) -> Iterable[dict[str, Any]]:
    table, stood = grid.standing, grid.stood
    flags: Iterable[str] = stood.loc[stood["defense"] == row, "flags"].dropna() if len(stood) else ()
    for told in table[table["defense"] == row].to_dict("records"):
        figure = next((str(name) for name in told if str(name).endswith(CI)), "")
        yield {"rank": told.get("rank", ""), "figure": figure.removesuffix(CI).strip(), "value": told.get(figure, ""),
               "mean": told.get("mean", ""), "flags": " ".join(flags).split()}  # fmt: skip


def _leaves(grid: Grid, row: str) -> Iterable[dict[str, Any]]:
    table = grid.standing
    for title in (name for name in table if name in (row, f"{row} (weak)")):
        for told in table.to_dict("records"):
            yield {"defense": told["defense"], "value": told[title], "weak": title != row,
                   "strongest": told.get("by") == row}  # fmt: skip


_NUMBER = re.compile(r"[≥≤]?(-?\d+(?:\.\d+)?(?:e[+-]\d+)?)(?![\w.])")


def order(texts: Iterable[Any]) -> list[str] | None:
    """What a column of figures as text is sorted by; None if it is none of figures."""
    found = [(str(text), _NUMBER.match(str(text))) for text in texts]
    if not any(match for _, match in found) or any(text and not match for text, match in found):
        return None
    return [match[1] if match else "" for _, match in found]


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """A table of texts, empty where there is nothing."""
    return table.astype(object).where(table.notna(), "")


def prose(text: str | None) -> Markup:
    """A docstring in paragraphs, with what stands in backticks as code."""
    parts = [part for part in re.split(r"\n\s*\n", text or "") if part.strip()]
    return Markup("").join(Markup("<p>{}</p>").format(code(part)) for part in parts)


def code(text: str) -> Markup:
    """Text with what stands in backticks as code."""
    return Markup(re.sub("`+([^`]*)`+", r"<code>\1</code>", str(escape(text))))


def _plain(table: pd.DataFrame) -> list[list[Any]]:
    """Rows as plain data, figures to six digits."""
    return [[None if pd.isna(value) else float(f"{value:.6g}") if isinstance(value, float) else value
             for value in row] for row in table.astype(object).itertuples(index=False)]  # fmt: skip
