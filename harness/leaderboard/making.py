"""Records to boards: long-form ones (CSV) and a readable one, a section a grid (Markdown, LaTeX, HTML)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from harness import records as record_files
from harness.leaderboard import flags, formats, profiles, readable, standings
from harness.leaderboard import scores as cells
from harness.leaderboard.long_form import board, read_published
from harness.leaderboard.tables import further, plain
from harness.plugin import Track
from harness.registry import Catalogue

RECORDS = "records.parquet"
PUBLISHED = "published.csv"


@cache
def tracks(plugins: tuple[Path, ...] = ()) -> dict[str, Track]:
    """Every track, installed or in one of these plugin files, by name."""
    return {entry.name: entry.load()() for entry in Catalogue(plugins).all("track")}


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

    def save(self, out: Path) -> list[str]:
        """Write the long forms into a folder; the files' names. Where nothing judges there are neither standings nor
        comparisons."""
        every = {"leaderboard": self.board, "standings": self.standings, "comparisons": self.comparisons}
        files = {f"{name}.csv": table for name, table in every.items() if len(table.columns)}
        for name, table in files.items():
            table.to_csv(out / name, index=False)
        return [*files]


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
        shown = [readable.standing(judged[grid], stood[grid], short, titles)] if grid in stood else []
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
    in `out`; where nothing judges, no standings and comparisons. plugins: files that may hold a track."""
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
    made.save(out)
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
