"""The charts of a grid: what they show is read from its board, its standings and its judging cells."""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.colors import hex_to_rgb

from harness.leaderboard.readable import unrounded
from harness.leaderboard.scores import FIGURE, Cells
from harness.leaderboard.tables import interval, number

plotly.io.templates.default = None  # the page adds one, light or dark
THEMES = {"light": "plotly_white", "dark": "plotly_dark"}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1"]
DASHES = ["solid", "dash", "dot", "dashdot"]
SYMBOLS = ["circle", "square", "diamond", "cross", "x", "triangle-up", "triangle-down", "star", "hexagon"]


@dataclass(frozen=True)
class Chart:
    """A chart with its text alternative; table: its figures, where the page has them in no other."""

    title: str
    about: str
    figure: go.Figure
    table: pd.DataFrame | None = None

    @property
    def data(self) -> dict[str, Any]:
        """For plotly.js, as plain data."""
        plain: dict[str, Any] = json.loads(self.figure.to_json())
        return plain


def themes() -> dict[str, Any]:
    """What charts look like on a light and on a dark page, for plotly.js."""
    return {mode: plotly.io.templates[name].to_plotly_json() for mode, name in THEMES.items()}


def judged(of: Cells, stood: pd.DataFrame, board: pd.DataFrame, kept: pd.DataFrame) -> dict[str, list[Chart]]:
    """The charts of a grid that judges, by heading. stood: its standings. board: its long form. kept: which figures
    (`FIGURE`) are of what is to be kept."""
    bounds = [f"{kind}_{side}" for kind in ("ci", "tasks") for side in ("low", "high")]
    stood = stood.assign(**unrounded(of, stood[["worst", "mean", *bounds]]))
    found = {
        "Intervals": [intervals(of, stood)],
        "Protection against what is kept": list(bargains(of, stood, board, kept)),
        "Map of the pairs": list(maps(of)),
    }
    return {heading: charts for heading, charts in found.items() if charts}


def intervals(of: Cells, stood: pd.DataFrame) -> Chart:
    """Each defense's worst case with both intervals, the mean over attackers beside it."""
    shown = stood.iloc[::-1]  # plotly draws upwards
    names = [_label(name) for name in shown["defense"]]
    figure = _figure(_what(of), "", height=160 + 26 * len(names), margin_l=10)
    for kind, width, name in (("tasks", 1, "95 %, other tasks too"), ("ci", 4, "95 %, other seeds")):
        bars = _bars(shown, "worst", kind, width, COLOURS[0])
        figure.add_scatter(x=_floats(shown["worst"]), y=names, error_x=bars, name=name, mode="markers",
                           marker={"color": COLOURS[0], "size": 9 if kind == "ci" else 1})  # fmt: skip
    if list(of.scores) != [""]:
        figure.add_scatter(x=_floats(shown["mean"]), y=names, name="mean over attackers", mode="markers",
                           marker={"color": COLOURS[1], "size": 9, "symbol": "diamond-open"})  # fmt: skip
    if of.broken is not None:
        figure.add_vline(of.broken, line={"dash": "dot", "color": "gray"}, annotation_text="broken")
    figure.update_xaxes(type="log" if of.log else "linear")
    figure.update_yaxes(automargin=True, type="category", dtick=1)
    return Chart(_what(of), f"Dot chart of {_what(of)} by defense, with intervals; its figures are in the standings "
                 "above.", figure)  # fmt: skip


def bargains(of: Cells, stood: pd.DataFrame, board: pd.DataFrame, kept: pd.DataFrame) -> Iterator[Chart]:
    """For each figure of what is to be kept, protection against it; a line joins the defenses that no other beats in
    both."""
    whole = board[board["attacker"].isna() & board["concept"].isna()]
    for figure_of_kept in kept.itertuples(index=False, name=None):
        rows = of_figure(whole, dict(zip(FIGURE, figure_of_kept, strict=True))).set_index("defense")
        rows = rows[["value", "ci_low", "ci_high"]].set_axis(["kept", "kept_low", "kept_high"], axis=1)
        title = " ".join(str(part) for part in figure_of_kept if not pd.isna(part)).replace("_", " ")
        for height in ("worst", "mean") if list(of.scores) != [""] else ("worst",):
            points = stood.join(rows, on="defense").dropna(subset=["kept", height])
            if points.empty:
                continue
            what = _what(of) if height == "worst" else _what(of).replace("worst", "mean", 1)
            figure = _figure(title, what, height=330 + 16 * len(stood))
            best = points[_front(points["kept"].to_numpy(float), of.score(points[height].to_numpy(float)))]
            best = best.sort_values("kept")
            figure.add_scatter(x=_floats(best["kept"]), y=_floats(best[height]), mode="lines", hoverinfo="skip",
                               line={"dash": "dot", "color": "gray"}, name="no other is better in both")  # fmt: skip
            for i, defense in points["defense"].items():
                point, look = points.loc[[i]], _look(of.defenses.index(defense))
                figure.add_scatter(
                    x=_floats(point["kept"]), y=_floats(point[height]), name=_label(defense), mode="markers",
                    error_x=_bars(point, "kept", "kept", 1, look["color"]),
                    error_y=_bars(point, "worst", "ci", 1, look["color"]) if height == "worst" else None,
                    marker={**look, "size": 11},
                )  # fmt: skip
            # Not of the intervals, which a few seeds make so wide that all points would be one.
            figure.update_xaxes(range=_range(points["kept"]))
            upwards = _range(points[height], log=of.log)
            figure.update_yaxes(type="log" if of.log else "linear",
                                range=upwards if of.better == "higher" else upwards[::-1])  # fmt: skip
            table = pd.DataFrame({"defense": points["defense"], title: points["kept"].map(number),
                                  what: points[height].map(number)})  # fmt: skip
            yield Chart(f"{height}, {title}", f"Scatter chart of {what} against {title}, a point a defense; up and "
                        "right is better.", figure, table)  # fmt: skip


def maps(of: Cells) -> Iterator[Chart]:
    """Where the tasks are pairs of three things or more, and at least half of all ordered pairs, each defense's figures
    as a map."""
    pairs = {task: of.members.get(task, []) for task in map(str, of.by_task.index)}
    names = sorted({name for pair in pairs.values() for name in pair})
    paired = all(len(pair) == 2 for pair in pairs.values())
    if not paired or len(names) < 3 or 2 * len(pairs) < len(names) * (len(names) - 1):
        return
    task, (first, second) = next(iter(pairs.items()))
    values = of.by_task.to_numpy(float)
    shades = np.log(values) if of.log else values
    most = float(np.nanmax(np.abs(shades), initial=0))
    what = str(of.figure["metric"]).replace("_", " ")
    for place, defense in enumerate(of.by_task):
        shade, told = (pd.DataFrame(np.nan, names, names) for _ in range(2))
        for line, (a, b) in enumerate(pairs.values()):
            shade.loc[b, a], told.loc[b, a] = shades[line, place], values[line, place]
        shown = told.map(number)
        figure = _figure(f"first of the pair ({first} in {task})", f"second ({second} in {task})", height=360,
                         margin_l=50)  # fmt: skip
        figure.add_heatmap(
            x=[_label(name) for name in names], y=[_label(name) for name in names], z=shade.to_numpy().tolist(),
            text=shade.map(lambda of: "" if pd.isna(of) else f"{of:.1f}").to_numpy().tolist(), texttemplate="%{text}",
            customdata=shown.to_numpy().tolist(), hovertemplate="%{x}, %{y}: %{customdata}<extra></extra>",
            textfont={"size": 9},
            colorscale="RdBu" if of.better == "higher" else "RdBu_r", zmin=-most, zmax=most, showscale=False,
        )  # fmt: skip
        figure.update_xaxes(type="category", dtick=1)
        figure.update_yaxes(type="category", dtick=1, autorange="reversed")
        written = f"ln {what}" if of.log else what
        table = shown.rename_axis("second \\ first").reset_index()
        yield Chart(f"{defense}: {written}", f"Map of {written} of {defense} by pair, mean over seeds; a row the "
                    "second of the pair, a column the first.", figure, table)  # fmt: skip


def curves(board: pd.DataFrame, log: Collection[str], of: Cells | None) -> Iterator[Chart]:
    """Figures that are measured at several steps, a chart an attacker and figure, with bands of 95 % over seeds. log:
    metrics that are drawn on a logarithmic axis. of: the judging cells, if there are any."""
    measured = board[board["step"].notna() & board["concept"].isna() & board["value"].notna()]
    order = list(measured["defense"].unique())
    for at, rows in measured.groupby(["metric", "role", "policy", "split", "attacker"], dropna=False, sort=False):
        steps = sorted(int(step) for step in rows["step"].unique())
        if len(steps) < 2:
            continue
        *parts, attacker = (None if pd.isna(part) else str(part) for part in tuple[Any, ...](at))
        what = " ".join(part for part in parts if part).replace("_", " ")
        figure = _figure("steps", what, height=330 + 16 * len(order))
        for defense, line in rows.groupby("defense", sort=False):
            line, place = line.sort_values("step"), order.index(defense)
            look, at_steps = _look(place), [str(step) for step in line["step"]]
            low, high = (_floats(line[side].fillna(line["value"])) for side in ("ci_low", "ci_high"))
            shared = {"name": _label(defense), "legendgroup": _label(defense)}
            if line["ci_low"].notna().any():
                red, green, blue = hex_to_rgb(look["color"])
                figure.add_scatter(x=at_steps + at_steps[::-1], y=high + low[::-1], fill="toself", mode="lines",
                                   fillcolor=f"rgba({red},{green},{blue},0.15)", line={"width": 0}, hoverinfo="skip",
                                   showlegend=False, **shared)  # fmt: skip
            dash = DASHES[place // len(COLOURS) % len(DASHES)]
            figure.add_scatter(x=at_steps, y=_floats(line["value"]), mode="lines+markers", marker={**look, "size": 6},
                               line={"color": look["color"], "width": 1.5, "dash": dash}, **shared)  # fmt: skip
        judges = of is not None and parts == [of.figure[name] for name in FIGURE]
        if of is not None and judges and of.broken is not None:
            figure.add_hline(of.broken, line={"dash": "dot", "color": "gray"}, annotation_text="broken")
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=[str(step) for step in steps])
        figure.update_yaxes(type="log" if parts[0] in log else "linear")
        told = rows.assign(told=[interval(row) for _, row in rows.iterrows()]).pivot(
            index="defense", columns="step", values="told"
        )
        table = told.reindex(rows["defense"].unique()).fillna("").reset_index()
        yield Chart(f"{attacker or 'released'}: {what}", f"Line chart of {what} against steps of {attacker}, a line a "
                    "defense.", figure, table)  # fmt: skip


def of_figure(board: pd.DataFrame, figure: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of a board that are of this figure (by `FIGURE`)."""
    for name in FIGURE:
        same = board[name].isna() if pd.isna(figure[name]) else (board[name] == figure[name]).fillna(False)
        board = board[same.astype(bool)]
    return board


def _front(x: Any, y: Any) -> Any:
    """Which points no other is better than in one and at least as good in the other."""
    beats = (x[:, None] >= x) & (y[:, None] >= y) & ((x[:, None] > x) | (y[:, None] > y))
    return ~beats.any(axis=0)


def _what(of: Cells) -> str:
    attacked = "worst " if list(of.scores) != [""] else ""
    return f"{attacked}{str(of.figure['metric']).replace('_', ' ')} ({of.better} is better)"


def _figure(x: str, y: str, *, height: int, margin_l: int = 60) -> go.Figure:
    figure = go.Figure()
    clear = "rgba(0,0,0,0)"
    below = {"orientation": "h", "maxheight": 0.65, "yref": "container", "y": 0, "yanchor": "bottom"}
    figure.update_layout(height=height, margin={"l": margin_l, "r": 10, "t": 20, "b": 50}, paper_bgcolor=clear,
                         plot_bgcolor=clear, dragmode=False, legend=below)  # fmt: skip
    figure.update_xaxes(title=_label(x), fixedrange=True)  # a finger on the chart scrolls the page
    figure.update_yaxes(title=_label(y), fixedrange=True)
    return figure


def _look(place: int) -> dict[str, Any]:
    """Colour and symbol of the so many-th defense; no two of 63 are alike in both."""
    return {"color": COLOURS[place % len(COLOURS)], "symbol": SYMBOLS[place % len(SYMBOLS)]}


def _bars(rows: pd.DataFrame, name: str, ends: str, thickness: int, colour: str) -> dict[str, Any]:
    value, low, high = (rows[column].astype("Float64") for column in (name, f"{ends}_low", f"{ends}_high"))
    return {"array": _floats(high - value), "arrayminus": _floats(value - low), "thickness": thickness, "width": 4,
            "symmetric": False, "color": colour}  # fmt: skip


def _range(values: pd.Series, log: bool = False) -> list[float]:
    """An axis on which these have room."""
    ends = np.array([values.min(), values.max()], float)
    ends = np.log10(ends) if log else ends
    room = 0.1 * (ends[1] - ends[0]) or 0.1
    return [float(ends[0] - room), float(ends[1] + room)]


def _floats(values: pd.Series) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in values]


def _label(name: object) -> str:
    """Text that plotly shows as it is."""
    return html.escape(str(name), quote=False)
