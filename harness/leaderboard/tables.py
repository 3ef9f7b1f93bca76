"""Readable tables: of standings, a default one of any track's values, and the numbers in them as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.leaderboard.scores import QUANTITY, Cells, named, quantity_of
from harness.records import Records
from harness.suite import Grid

CI = "[95 %]"
"""In the title of a column whose values have intervals for other seeds on these tasks."""
TASKS = "(other tasks)"
"""Follows `CI` where a second interval is for other tasks as well."""
WEAK = " (weak)"
"""Ends the title of an attacker that does not break the undefended model."""
CHANGED = "*"
"""Follows a row's label if its settings are not the suite file's; no label can hold it."""
LONGEST_SETTINGS = 40
"""Of longer changed settings a row's name shows the beginning."""


def marked(grid: Grid, kind: str, label: str) -> str:
    """A defense's or attacker's label, marked if the row is changed."""
    return f"{label}{CHANGED}" if grid.changes_of(kind, label) else label


def row_name(grid: Grid, kind: str, label: str) -> str:
    """A row's marked label with the changed settings in short, as tables write it: `adam* lr=0.1`."""
    settings = textwrap.shorten(grid.settings_of(kind, label), LONGEST_SETTINGS, placeholder=" …")
    return f"{marked(grid, kind, label)} {settings}".strip()


def pick(cell: pd.DataFrame, metric: str, **coordinates: object) -> Mapping[str, Any]:
    """The first row of a long-form board's part `cell` that is of a metric at these coordinates (`role="harmful"`), by
    column; empty if there is none."""
    chosen = np.full(len(cell), True)
    for column, wanted in {"metric": metric, **coordinates}.items():
        chosen &= (cell[column] == wanted).to_numpy(bool, na_value=False)
    return {str(name): value for name, value in cell.iloc[chosen.argmax()].items()} if chosen.any() else {}


def value(cell: pd.DataFrame, metric: str, **coordinates: object) -> str:
    """The value of the row that `pick` picks, as text."""
    return number(pick(cell, metric, **coordinates).get("value"))


def interval(row: Mapping[str, Any] | pd.Series, resolution: float = 0.0) -> str:
    """The value of a long-form row with its interval for other seeds (`ci_low`, `ci_high`), as text. resolution: an
    interval that is narrower than this cannot be known and is written as `< resolution`."""
    text = number(row.get("value"))
    ends = _ends(row, "ci", resolution)
    return f"{text} [{ends}]" if text and ends else text


def intervals(row: Mapping[str, Any] | pd.Series, resolution: float = 0.0) -> str:
    """The same with the interval for other tasks (`tasks_low`, `tasks_high`) in parentheses."""
    text = interval(row, resolution)
    ends = _ends(row, "tasks", resolution)
    return f"{text} ({ends})" if text and ends else text


def _ends(row: Mapping[str, Any] | pd.Series, kind: str, resolution: float) -> str:
    """The ends of an interval as text; empty where there is none."""
    low, high = row.get(f"{kind}_low"), row.get(f"{kind}_high")
    if low is None or high is None or pd.isna(low) or not low < high:
        return ""
    return f"{number(low)}, {number(high)}" if high - low >= resolution else f"< {number(resolution)}"


def published(row: Mapping[str, Any] | pd.Series) -> str:
    """The published value of a long-form row as text, with ours in parentheses where it is not the row's value: the
    paper's tasks are others, or its mean is another one."""
    text, ours = number(row.get("published")), number(row.get("published_ours"))
    return f"{text} (ours {ours})" if text and ours not in ("", number(row.get("value"))) else text


def number(value: Any) -> str:
    """A number as text: three significant digits, without an exponent where that is readable; empty for None and
    NaN."""
    if value is None or pd.isna(value):
        return ""
    real = float(value) or 0.0  # no minus before a zero
    if real != 0 and not 1e-3 <= abs(real) < 1e5:
        return f"{real:.1e}"
    return f"{real:.3g}" if abs(real) < 1000 else f"{real:.0f}"


def default_table(long: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The readable table of a grid whose track has none of its own: a row for each defense and attacker (empty: the
    released model, before any attack), a column for each quantity at its last step, with intervals. long: the grid's
    long-form board."""
    whole = long[long["concept"].isna() & long["metric"].notna()]
    number_columns = ["attacker", *QUANTITY]
    last = whole["step"].fillna(-1).groupby([whole[name] for name in number_columns], dropna=False).transform("max")
    whole = whole[whole["step"].fillna(-1) == last]
    rows = long[["defense", "attacker"]].drop_duplicates().reset_index(drop=True)
    places = _places(rows)
    table = rows.astype(object).where(rows.notna(), "")
    for coordinates, values in whole.groupby(QUANTITY, dropna=False, sort=False):
        title = _title(grid, [None if pd.isna(part) else str(part) for part in tuple[Any, ...](coordinates)], whole)
        texts = dict(zip(_places(values), (interval(row) for _, row in values.iterrows()), strict=True))
        table[title] = [texts.get(place, "") for place in places]
    return without_empty_columns(table)


def _places(rows: pd.DataFrame) -> list[tuple[str, str]]:
    filled = rows[["defense", "attacker"]].fillna("").astype(str)
    return list(filled.itertuples(index=False, name=None))


def _title(grid: Grid, coordinates: list[str | None], long: pd.DataFrame) -> str:
    """A quantity's title with its coordinates; the metric's label is named if several measure the same quantity."""
    label, metric, *others = coordinates
    labels = long.loc[long["metric"] == metric, "measured_by"].nunique()
    parts = [quantity_of(grid, str(metric)).title, *others, label if labels > 1 else None]
    return " ".join(part for part in parts if part)


def with_failures(table: pd.DataFrame, records: Records, grid: Grid) -> pd.DataFrame:
    """A table with a column `failed`, if cells of its rows failed: how many and why the first one did. table: with a
    column `defense` and, if its rows are of single attackers, `attacker`."""
    frame = records.frame[records.frame["grid"] == grid.name]
    by = ["defense", "attacker"] if "attacker" in table else ["defense"]
    places = frame[by].fillna("").astype(str)
    texts = {}
    for place, rows in frame.groupby([places[name] for name in by], sort=False):
        failed = rows[rows["status"] != "ok"]
        if len(failed):
            counts = f"{failed['key'].nunique()} of {rows['key'].nunique()} cells"
            texts[place] = f"{counts}: {failed['note'].iloc[0]}"
    if not texts:
        return table
    keys = table[by].fillna("").astype(str).itertuples(index=False, name=None)
    return without_empty_columns(table.assign(failed=[texts.get(tuple(key), "") for key in keys]))


def with_row_names(table: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """A table whose defenses and attackers (columns `defense`, `attacker`, `by`) are marked if they are changed."""
    kinds = {"defense": "defense", "attacker": "attacker", "by": "attacker"}
    names = {
        column: [row_name(grid, kind, str(label)) if not pd.isna(label) else "" for label in table[column]]
        for column, kind in kinds.items()
        if column in table
    }
    return table.assign(**names)


def standings_table(cells: Cells, standings: pd.DataFrame, flags: Mapping[str, str]) -> tuple[pd.DataFrame, str]:
    """The readable table of a grid's standings, and the text below it.

    standings: see `standings.standings`. flags: by defense, the names of its flags.
    """
    grid = cells.grid
    rows = unrounded(cells, standings)
    what = cells.quantity.title
    other_tasks = f" {TASKS}" if rows["tasks_low"].notna().any() else ""
    headline = f"{'worst ' if cells.attacked else ''}{what} {CI}{other_tasks}"
    table = pd.DataFrame({"defense": standings["defense"].to_numpy()}, dtype=object)
    resolution = 0.0 if cells.log else cells.ranking.resolution
    table[headline] = [intervals(row, resolution) for _, row in rows.rename(columns={"worst": "value"}).iterrows()]
    table["rank"] = _ranks(standings)
    if cells.attacked:
        table["by"] = standings["by"].to_numpy()
        table["mean"] = rows["mean"].map(number).to_numpy()
        for attacker in grid.attackers:
            title = row_name(grid, "attacker", attacker) + (WEAK if attacker in cells.weak else "")
            table[title] = rows[f"attacker {attacker}"].map(number).to_numpy()
    table["flags"] = [flags[defense] for defense in standings["defense"]]
    return with_row_names(without_empty_columns(table), grid), _below(cells)


def _below(cells: Cells) -> str:
    """How the standings are to be read."""
    number = named(cells.grid, {name: cells.coordinates[name] for name in ("metric", "role", "variant", "split")})
    attack = (
        " after the last step: on each task and seed the value that the strongest attacker leaves, then the mean "
        "(where several are equally strong this is worse than each one's mean, because chance picks the strongest)"
    )
    other_tasks = ", in parentheses one for other tasks of the kind as well" if len(cells.grid.members) > 1 else ""
    return (
        f"{number}{attack if cells.attacked else ''}; a defender wants it {cells.ranking.better}. In brackets a 95 % t "
        f"interval for other seeds on these tasks{other_tasks}. A range of ranks holds all that the paired comparisons "
        "(Holm, 5 %) leave open; without a second seed, or a second task where nothing is random, there is no rank."
    )


def unrounded(cells: Cells, standings: pd.DataFrame) -> pd.DataFrame:
    """The values of standings, with zeros where rounding has left something else."""
    names = [name for name in standings if name in ("worst", "mean") or str(name).startswith(("attacker ", "ci_"))]
    values = standings[[*names, *(name for name in ("tasks_low", "tasks_high") if name in standings)]].astype(float)
    return values.mask(values.abs() < 1e-6 * cells.ranking.resolution, 0.0)


def _ranks(standings: pd.DataFrame) -> list[str]:
    """Ranks as text: `2`, `1–3`, `not separated` where no two rows are, or nothing where nothing is compared."""
    ranks = standings[["rank_low", "rank_high"]].itertuples(index=False, name=None)
    texts = ["" if pd.isna(low) else f"{low}" if low == high else f"{low}–{high}" for low, high in ranks]
    everything = f"1–{len(standings)}"
    return ["not separated" if text else "" for text in texts] if set(texts) <= {everything, ""} else texts


def without_empty_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A table of texts without columns that are empty in every row; `defense` stays."""
    filled = table.fillna("") != ""
    return table[[name for name in table if name == "defense" or np.any(filled[name])]]
