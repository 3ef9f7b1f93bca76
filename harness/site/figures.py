"""What the charts share: empty figures, dots with intervals, lines with bands, and texts without markup."""

from __future__ import annotations

import html
import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.colors import hex_to_rgb

from harness.leaderboard.looks import Look

plotly.io.templates.default = None  # the page adds one, light or dark
THEMES = {"light": "plotly_white", "dark": "plotly_dark"}
WIDTHS = {"tasks": 1, "ci": 4}
"""Widths of the lines of both intervals."""
NEUTRAL = "#7a7a7a"
"""Colour of what belongs to no defense."""


@dataclass(frozen=True)
class Chart:
    """A chart. about: its text alternative. table: its values, where the page has them in no other table."""

    title: str
    about: str
    figure: go.Figure
    table: pd.DataFrame | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The figure for plotly.js, as JSON values."""
        content: dict[str, Any] = json.loads(self.figure.to_json())
        return content


def themes() -> dict[str, Any]:
    """The looks of charts on a light and on a dark page, for plotly.js."""
    return {mode: plotly.io.templates[name].to_plotly_json() for mode, name in THEMES.items()}


def empty_figure(x: str, y: str, *, height: int, margin_l: int = 60) -> go.Figure:
    """An empty figure with titles of its axes."""
    figure = go.Figure()
    clear = "rgba(0,0,0,0)"
    below = {"orientation": "h", "maxheight": 0.65, "yref": "container", "y": 0, "yanchor": "bottom"}
    figure.update_layout(
        height=height,
        margin={"l": margin_l, "r": 10, "t": 20, "b": 50},
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        dragmode=False,
        legend=below,
    )
    figure.update_xaxes(title=_title(x), fixedrange=True)  # a finger on the chart scrolls the page
    figure.update_yaxes(title=_title(y), fixedrange=True, automargin=True)
    return figure


def mark(figure: go.Figure, x: float, text: str, log: bool) -> None:
    """Draw a line at `x` with a text at its upper end; on a logarithmic axis plotly places texts by the logarithm."""
    figure.add_vline(x, line={"dash": "dot", "color": "gray"})
    at = math.log10(x) if log else x
    figure.add_annotation(x=at, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False, font={"size": 10})


def add_dots(figure: go.Figure, rows: pd.DataFrame, name: str, all_looks: Sequence[Look], hollow: pd.Series) -> None:
    """A dot for each row with both intervals. rows: by the labels of the vertical axis, with `BOUNDS`. name: the column
    of the values. all_looks, hollow: of each row, how it looks and whether its dot is hollow."""
    for (label, _), look, is_hollow in zip(rows.iterrows(), all_looks, hollow, strict=True):
        line = rows.loc[[label]]
        for kind, width in WIDTHS.items():
            symbol = f"{look.symbol}-open" if is_hollow else look.symbol
            marker = {"color": look.colour, "symbol": symbol, "size": 10 if kind == "ci" else 1}
            figure.add_scatter(
                x=floats(line[name]), y=[label], error_x=error_bars(line, name, kind, width, look.colour), name=label,
                mode="markers", marker=marker, showlegend=False,
            )  # fmt: skip


def add_arrows(figure: go.Figure, rows: pd.DataFrame) -> None:
    """An arrow from the upper end of each row's interval: its ratio is a lower bound. rows: see `add_dots`."""
    figure.add_scatter(
        x=floats(rows["ci_high"].fillna(rows["ratio"])), y=list(rows.index), mode="text", text=["→"] * len(rows),
        textposition="middle right", textfont={"size": 16}, cliponaxis=False, hoverinfo="skip", showlegend=False,
        name="or more",
    )  # fmt: skip


def add_key(figure: go.Figure, name: str, **sign: Any) -> None:
    """Explain a sign in the legend. sign: fields of a trace."""
    figure.add_scatter(x=[None], y=[None], name=name, **sign)


def add_line(figure: go.Figure, defense: str, line: pd.DataFrame, look: Look) -> None:
    """A defense's values against steps, with a band where it has intervals."""
    steps = [str(step) for step in line["step"]]
    shared = {"name": plain(defense), "legendgroup": plain(defense)}
    if line["ci_low"].notna().any():
        low, high = (floats(line[side].fillna(line["value"])) for side in ("ci_low", "ci_high"))
        red, green, blue = hex_to_rgb(look.colour)
        figure.add_scatter(
            x=steps + steps[::-1],
            y=high + low[::-1],
            fill="toself",
            mode="lines",
            fillcolor=f"rgba({red},{green},{blue},0.15)",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            **shared,
        )
    figure.add_scatter(
        x=steps,
        y=floats(line["value"]),
        mode="lines+markers",
        marker={"color": look.colour, "symbol": look.symbol, "size": 6},
        line={"color": look.colour, "width": 1.5, "dash": look.line},
        **shared,
    )


def error_bars(rows: pd.DataFrame, name: str, ends: str, thickness: int, colour: str) -> dict[str, Any]:
    """Error bars of the column `name`, from `ends`_low to `ends`_high."""
    value, low, high = (rows[column].astype("Float64") for column in (name, f"{ends}_low", f"{ends}_high"))
    return {
        "array": floats(high - value),
        "arrayminus": floats(value - low),
        "thickness": thickness,
        "width": 4,
        "symmetric": False,
        "color": colour,
    }


def range_around(values: pd.Series, log: bool = False) -> list[float]:
    """The range of an axis with room beside these values."""
    ends = np.array([values.min(), values.max()], float)
    ends = np.log10(ends) if log else ends
    room = 0.1 * (ends[1] - ends[0]) or 0.1
    return [float(ends[0] - room), float(ends[1] + room)]


def floats(values: pd.Series) -> list[float | None]:
    """The values as JSON can hold them: None where one is missing."""
    return [None if pd.isna(value) else float(value) for value in values]


def _title(text: str) -> str:
    """The title of an axis in lines of at most 32 letters, for narrow screens; a direction is in a line of its own."""
    parts = re.split(r"\s(?=\((?:higher|lower) is better\))", text)
    return "<br>".join(plain(line) for part in parts for line in textwrap.wrap(part, 32))


def plain(name: object) -> str:
    """A name in which plotly finds no markup."""
    return html.escape(str(name), quote=False)
