"""Records to tables: a long-form board (CSV) and a track's readable one (Markdown, LaTeX, HTML)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from tabulate import tabulate

from harness import records as record_files
from harness.catalogue import Catalogue
from harness.errors import UsageError
from harness.plugin import Track
from harness.stats import seed_intervals

RECORDS = "records.parquet"
PUBLISHED = "published.csv"
CELL = ["suite", "suite_version", "grid", "track", "defense", "attacker"]
FIGURE = ["concept", "metric", "role", "policy", "split", "step"]
COLUMNS = [
    *CELL, *FIGURE, "value", "ci_low", "ci_high", "n_tasks", "n_seeds", "unit", "published", "note",
]  # fmt: skip

PUBLISHED_SCHEMA = [
    "paper", "table", "setting", "task", "n_concepts", "defense", "attacker", "metric", "role", "policy", "split",
    "value", "note",
]  # fmt: skip
"""Columns of a tidy file of published figures; an empty cell means the paper does not say or it does not apply.
`setting` is the suite's grid, `task` is empty for a mean over all tasks."""


@cache
def tracks() -> dict[str, Track]:
    """Every track installed, by name."""
    return {entry.name: entry.load()() for entry in Catalogue().all("track")}


def board(records: pd.DataFrame, published: pd.DataFrame | None = None) -> pd.DataFrame:
    """The long-form board: a row a figure, averaged over tasks within a seed, then over seeds.

    The interval is Student's t over seeds, the tasks being the suite's own and fixed; a ratio is averaged on the
    log scale. A cell of which some tasks or seeds failed says so in `note`; one of which all failed keeps a row
    with no value. `published` is the paper's figure for the same grid, defense and metric.
    """
    cells = records.groupby(CELL, dropna=False, sort=False).ngroup().rename("cell")
    holes = _holes(cells, records)
    measured = records[records["status"] == "ok"]
    groups = measured.groupby([*CELL, *FIGURE], dropna=False, sort=False).ngroup().rename("group")
    log = (measured["scale"] == "log").fillna(False).astype(bool)

    long = measured[[*CELL, *FIGURE]].groupby(groups).first()
    long = long.join(seed_intervals(groups, measured["seed"].fillna(0), measured["value"], log))
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
    long = long.astype({**types, **dict.fromkeys(["ci_low", "ci_high", "published"], "Float64")})
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
    of_tasks = told[told["task"].notna()].groupby(keys, dropna=False)["published"].mean().reset_index()
    told = pd.concat([told[told["task"].isna()], of_tasks])[[*keys, "published"]].drop_duplicates(keys)
    told = told.astype(dict.fromkeys(keys, "string"))
    merged = long.drop(columns="published").merge(told, on=keys, how="left")
    last = merged["step"].isna() | (merged["step"] == merged.groupby(CELL, dropna=False)["step"].transform("max"))
    merged["published"] = merged["published"].where(last.fillna(True)).astype("Float64")
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


def tables(long: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The readable table of each track on a board."""
    known = tracks()
    names = [str(name) for name in long["track"].unique()]
    parts = {name: long[long["track"] == name] for name in names}
    # Of a track that is no longer installed the long form is what there is to read.
    return {name: known[name].table(part) if name in known else part for name, part in parts.items()}


def write(
    records: pd.DataFrame, out: Path, published: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Write `records.parquet` and what `render` makes of it into `out`; the board and the readable tables.

    What was published is kept beside, so that `leaderboard DIR` makes the same files again.
    """
    out.mkdir(parents=True, exist_ok=True)
    record_files.save(records, out / RECORDS)
    if published is not None:
        published.to_csv(out / PUBLISHED, index=False)
    return render(out)


def render(out: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Make `leaderboard.{csv,md,tex,html}` and the pictures anew from the records in `out`; the board and the
    readable table of each track."""
    records = record_files.load(out / RECORDS)
    return draw(records, read_published(out / PUBLISHED) if (out / PUBLISHED).is_file() else None, out)


def draw(
    records: pd.DataFrame, published: pd.DataFrame | None, out: Path, note: str = ""
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """`render` of these records, with the contact sheets that lie in `out`; `note`: what is to be said under the
    title."""
    long = board(records, published)
    long.to_csv(out / "leaderboard.csv", index=False)
    shown = tables(long)
    suite = f"{records['suite'].iloc[0]} (version {records['suite_version'].iloc[0]})"
    pictures = {name: _pictures(records[records["track"] == name], out, tracks()[name]) for name in shown
                if name in tracks()}  # fmt: skip
    (out / "leaderboard.md").write_text(_markdown(suite, shown, pictures, note))
    (out / "leaderboard.tex").write_text(_latex(suite, shown))
    (out / "leaderboard.html").write_text(_html(suite, shown, pictures, note))
    return long, shown


def _pictures(records: pd.DataFrame, out: Path, track: Track) -> list[str]:
    """The files of a track's pictures: drawn now from the records, or left by measuring jobs."""
    drawn = [path.name for path in track.figures(records, out)]
    copied = [path.name for grid in records["grid"].unique() for path in sorted(out.glob(f"{grid}__*.png"))]
    return drawn + copied


def markdown(table: pd.DataFrame) -> str:
    """A readable table as Markdown."""
    cells = {name.replace("|", "\\|"): [of.replace("|", "\\|") for of in column]
             for name, column in _cells(table).items()}  # fmt: skip
    return tabulate(cells, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)


def _cells(table: pd.DataFrame) -> dict[str, list[str]]:
    return {str(name): table[name].fillna("").astype(str).tolist() for name in table.columns}


def _markdown(suite: str, shown: Mapping[str, pd.DataFrame], pictures: Mapping[str, list[str]], note: str = "") -> str:
    parts = [f"# {escape(suite)}\n", *([f"{escape(note)}\n"] if note else [])]
    for name, table in shown.items():
        parts.append(f"## Track `{name}`\n\n{escape(markdown(table), quote=False)}\n")
        if table.attrs.get("caption"):
            parts.append(f"{table.attrs['caption']}\n")
        parts.extend(
            f"![{escape(file, quote=False)}]({_link(file)})\n"
            for file in pictures.get(name, [])
            if file.endswith(".png")
        )
    return "\n".join(parts)


def _latex(suite: str, shown: Mapping[str, pd.DataFrame]) -> str:
    parts = [f"% {suite}; needs \\usepackage{{booktabs}} and a Unicode engine for κ"]
    parts.extend(
        tabulate(_cells(table), headers="keys", tablefmt="latex_booktabs", showindex=False, disable_numparse=True)
        for table in shown.values()
    )
    return "\n\n".join(parts) + "\n"


def _link(file: str) -> str:
    return quote(file, safe="+@,=")


def _html(suite: str, shown: Mapping[str, pd.DataFrame], pictures: Mapping[str, list[str]], note: str = "") -> str:
    suite = escape(suite)
    style = (
        "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color-scheme:light dark}"
        "table{border-collapse:collapse}"
        "th,td{padding:.3em .7em;border-bottom:1px solid #8886;text-align:right;white-space:nowrap}"
        "th:first-child,td:first-child,td:nth-child(2),th:nth-child(2){text-align:left}"
        ".wide{overflow-x:auto}img{max-width:100%}"
    )
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{suite}</title><style>{style}</style><h1>{suite}</h1>"
    ]
    if note:
        parts.append(f"<p>{escape(note)}</p>")
    for name, table in shown.items():
        parts.append(f"<h2>Track {escape(name)}</h2><div class='wide'>")
        parts.append(pd.DataFrame(_cells(table)).to_html(index=False, border=0))
        parts.append(f"</div><p>{table.attrs.get('caption', '')}</p>")
        files = pictures.get(name, [])
        shown_files = [file for file in files if file.endswith(".svg") or file.replace(".png", ".svg") not in files]
        parts.extend(f"<img src='{_link(file)}' alt='{escape(file)}'>" for file in shown_files)
    return "\n".join(parts) + "\n</html>\n"
