"""Reading single figures of a long-form board, for a track's readable table."""

from __future__ import annotations

from collections.abc import Mapping
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


def interval(found: Mapping[str, Any]) -> str:
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
