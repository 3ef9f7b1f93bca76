"""Reading single figures of a long-form board, for a track's readable table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd


def pick(cell: pd.DataFrame, metric: str, **at: object) -> Mapping[str, Any]:
    """The first row of a metric at these coordinates, or nothing."""
    chosen = cell["metric"] == metric
    for column, wanted in at.items():
        chosen &= (cell[column] == wanted).fillna(False)
    found = cell[chosen]
    return {str(name): of for name, of in found.iloc[0].items()} if len(found) else {}


def value(cell: pd.DataFrame, metric: str, **at: object) -> str:
    """Its figure, as text."""
    return number(pick(cell, metric, **at).get("value"))


def further(wide: pd.DataFrame, part: pd.DataFrame, known: Collection[str]) -> pd.DataFrame:
    """A track's table with a column more for each figure of a released model that is none of its `known` metrics and
    not of one concept alone; part: its rows of the long-form board."""
    told = part["metric"].notna() & part["attacker"].isna() & part["concept"].isna()
    more = part[told & ~part["metric"].isin(known)]
    names = ["metric", "role", "policy", "split"]
    for _, figures in more.groupby(names, dropna=False, sort=False):
        texts = {(row["grid"], row["defense"]): interval(row) for _, row in figures.iterrows()}
        title = " ".join(figures[names].iloc[0].dropna())
        wide[title] = [texts.get(row, "") for row in zip(wide["grid"], wide["defense"], strict=True)]
    return wide


def plain(part: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The table of a track that is not installed here, its rows of the long-form board less what is empty, and what
    is said below it."""
    at = ["defense", "attacker", "concept", "metric", "role", "policy", "split", "step"]
    wide = part[at].copy()
    wide["value [95 %]"] = [interval(row) for _, row in part.iterrows()]
    wide["note"] = part["note"]
    said = "The track is not installed here, so this is all there is to read, a row a figure."
    return wide.dropna(axis=1, how="all"), said


def interval(found: Mapping[str, Any] | pd.Series) -> str:
    """A picked figure with its interval, as text."""
    text = number(found.get("value"))
    if text and not pd.isna(found["ci_low"]) and found["ci_low"] < found["ci_high"]:
        text += f" [{number(found['ci_low'])}, {number(found['ci_high'])}]"
    return text


def number(given: Any) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if given is None or pd.isna(given):
        return ""
    real = float(given) or 0.0  # no minus before a zero
    if real != 0 and not 1e-3 <= abs(real) < 1e5:
        return f"{real:.1e}"
    return f"{real:.3g}" if abs(real) < 1000 else f"{real:.0f}"
