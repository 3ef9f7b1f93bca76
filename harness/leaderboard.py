"""Records to boards: long-form ones (CSV) and a readable one, a section a grid (Markdown, LaTeX, HTML)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from harness import cells, flags, formats, profiles, readable, standings
from harness import records as record_files
from harness.catalogue import Catalogue
from harness.errors import UsageError
from harness.plugin import Track
from harness.protection import members
from harness.stats import intervals
from harness.tables import further, plain

RECORDS = "records.parquet"
PUBLISHED = "published.csv"
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


@cache
def tracks(plugins: tuple[Path, ...] = ()) -> dict[str, Track]:
    """Every track, installed or in one of these plugin files, by name."""
    return {entry.name: entry.load()() for entry in Catalogue(plugins).all("track")}


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
    notes, of_cell = _notes(groups, measured), cells[measured.index].groupby(groups).first()
    long["note"] = ["; ".join(filter(None, (notes[g], holes.get(of_cell[g])))) for g in long.index]

    lost = [cell for cell in holes if not (of_cell == cell).any()]
    empty = records[CELL].groupby(cells).first().loc[lost].assign(n_tasks=0, n_seeds=0, note=[holes[c] for c in lost])
    long = pd.concat([long.assign(cell=of_cell), empty.assign(cell=lost)])
    long = long.sort_values("cell", kind="stable").reindex(columns=COLUMNS)  # the suite's order
    types = {name: kind for name, kind in record_files.SCHEMA.items() if name in COLUMNS}
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


@dataclass(frozen=True)
class Boards:
    """Everything a board is. board: long form, see `board`. standings: a row a grid and defense, see
    `standings.standings`. comparisons: a row a grid and pair of defenses. tables: each track's readable table of its
    own figures. sections: the readable board, without pictures. judged: by grid, the cells that judge."""

    board: pd.DataFrame
    standings: pd.DataFrame
    comparisons: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    sections: list[formats.Section]
    title: str
    judged: dict[str, cells.Cells]

    def markdown(self) -> str:
        """The readable board."""
        return formats.markdown(self.sections, self.title)


def make(
    records: pd.DataFrame,
    published: pd.DataFrame | None = None,
    plugins: tuple[Path, ...] = (),
) -> Boards:
    """Every board of the records, without a file. plugins: files that may hold a track."""
    known = tracks(plugins)
    long = board(records, published)
    judged = {str(of.at["grid"]): of for of in cells.read(records)}
    compared = {grid: standings.comparisons(of) for grid, of in judged.items()}
    stood = {grid: standings.standings(of, compared[grid]) for grid, of in judged.items()}
    found: flags.Raised = {}
    for of_grid, rows in records.groupby("grid", sort=False):
        found |= flags.raised(rows, judged.get(str(of_grid)), compared.get(str(of_grid)))
    for at, rows in long[_unlike(long)].groupby(["grid", "defense"]):
        what = rows["metric"].str.cat(rows["role"], " ", na_rep="").str.strip().unique()
        found.setdefault((str(at[0]), str(at[1]), ""), {})["unlike-published"] = ", ".join(what)
    long["flags"] = _flagged(long, found)
    sections: list[formats.Section] = []
    tables: dict[str, pd.DataFrame] = {}
    for grid in map(str, records["grid"].unique()):
        part = long[long["grid"] == grid]
        name = str(part["track"].iloc[0])
        order = list(stood[grid]["defense"]) if grid in stood else list(part["defense"].unique())
        part = part.iloc[part["defense"].map({defense: i for i, defense in enumerate(order)}).argsort(kind="stable")]
        short, lines = flags.listed({place: of for place, of in found.items() if place[0] == grid}, order)
        titles = {metric.name: metric.title for metric in known[name].metrics} if name in known else {}
        shown = [readable.standing(judged.get(grid), stood.get(grid), order, short, titles)]
        if name in known:
            table = further(known[name].table(part), part, list(titles))
            said = "" if name in tables else table.attrs.get("caption", "")  # once a track
            tables[name] = pd.concat([tables[name], table]).astype(object).fillna("") if name in tables else table
            shown.append((table.drop(columns="grid", errors="ignore"), said))
        else:
            shown.append(plain(part))
        lines += [f"published: {note}" for note in part["published_note"].dropna().unique()]
        sections.append(formats.Section(f"{grid} (track {name})", shown, lines))
    title = f"{records['suite'].iloc[0]} (version {records['suite_version'].iloc[0]})"
    every = [pd.concat(list(frames.values()), ignore_index=True) if frames else pd.DataFrame()
             for frames in (stood, compared)]  # fmt: skip
    if len(every[0]):
        every[0]["flags"] = _flagged(every[0], found)
    return Boards(long, every[0], every[1], tables, sections, title, judged)


def _unlike(long: pd.DataFrame) -> pd.Series:
    """Where the interval excludes what was published."""
    return ((long["published"] < long["ci_low"]) | (long["published"] > long["ci_high"])).fillna(False)


def _flagged(rows: pd.DataFrame, found: flags.Raised) -> list[str | None]:
    """The flags of each row: its defense's, and of attackers those of its own or, where it is of all, every one's."""
    by_row: dict[tuple[str, ...], set[str]] = {}
    for (grid, defense, attacker), of in found.items():
        for place in {(grid, defense), (grid, defense, attacker)}:
            by_row.setdefault(place, set()).update(of)
    names = []
    for row in (
        rows[["grid", "defense", *(["attacker"] if "attacker" in rows else [])]].fillna("").itertuples(index=False)
    ):
        own = by_row.get(tuple(row), set()) | by_row.get((row[0], row[1], ""), set())
        names.append(" ".join(name for name in flags.FLAGS if name in own) or None)
    return names


def write(
    records: pd.DataFrame, out: Path, published: pd.DataFrame | None = None, plugins: tuple[Path, ...] = ()
) -> Boards:
    """Write `records.parquet` and what `render` makes of it into `out`.

    What was published is kept beside, so that `leaderboard DIR` makes the same files again.
    """
    out.mkdir(parents=True, exist_ok=True)
    record_files.save(records, out / RECORDS)
    if published is not None:
        published.to_csv(out / PUBLISHED, index=False)
    return render(out, plugins)


def render(out: Path, plugins: tuple[Path, ...] = ()) -> Boards:
    """Make `leaderboard.{csv,md,tex,html}`, `standings.csv`, `comparisons.csv` and the pictures anew from the records
    in `out`. plugins: files that may hold a track."""
    records = record_files.load(out / RECORDS)
    return draw(records, read_published(out / PUBLISHED) if (out / PUBLISHED).is_file() else None, out, plugins=plugins)


def draw(
    records: pd.DataFrame,
    published: pd.DataFrame | None,
    out: Path,
    note: str = "",
    plugins: tuple[Path, ...] = (),
) -> Boards:
    """`render` of these records, with the contact sheets that lie in `out`; `note`: what is to be said under the
    title."""
    made = make(records, published, plugins)
    pictures = _pictures(records, out, made.judged, plugins)
    sections = [replace(section, pictures=of) for section, of in zip(made.sections, pictures, strict=True)]
    for name, table in (("leaderboard", made.board), ("standings", made.standings), ("comparisons", made.comparisons)):
        table.to_csv(out / f"{name}.csv", index=False)
    (out / "leaderboard.md").write_text(formats.markdown(sections, made.title, note))
    (out / "leaderboard.tex").write_text(formats.latex(sections, made.title))
    (out / "leaderboard.html").write_text(formats.page(sections, made.title, note))
    return made


def _pictures(
    records: pd.DataFrame, out: Path, judged: Mapping[str, cells.Cells], plugins: tuple[Path, ...]
) -> Iterator[list[str]]:
    """Of each grid the files of its pictures: its profile, those its track draws from the records, and those that
    measuring jobs left."""
    for grid, rows in records.groupby("grid", sort=False):
        profile = profiles.draw(judged[str(grid)], out / f"{grid}_profile") if str(grid) in judged else []
        track = tracks(plugins).get(str(rows["track"].iloc[0]))
        drawn = track.figures(rows, out) if track else []
        yield [path.name for path in [*profile, *drawn, *sorted(out.glob(f"{grid}__*.png"))]]
