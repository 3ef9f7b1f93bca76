"""The charts of a grid: drawn from its long-form board, its standings and its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.leaderboard import looks
from harness.leaderboard.boards import Board, GridBoard
from harness.leaderboard.headline import RETAINED, in_order, shown, with_control
from harness.leaderboard.plots import directed, direction, in_words, on_log_scale, spelled
from harness.leaderboard.retention import retention_rows
from harness.leaderboard.scores import QUANTITY, Cells, quantity_of
from harness.leaderboard.stats import BOUNDS, Bools, Floats, logarithms
from harness.leaderboard.tables import interval, number, unrounded
from harness.leaderboard.verdict import opening
from harness.ranking import Ranking
from harness.site.figures import (
    NEUTRAL,
    WIDTHS,
    Chart,
    add_arrows,
    add_dots,
    add_key,
    add_line,
    empty_figure,
    error_bars,
    floats,
    mark,
    plain,
    range_around,
)
from harness.site.view import BoardView, GridView
from harness.suite import Grid

SUMMARY = 2
"""Defenses, besides the best control, in the chart of a board on the first page."""

FURTHER = "Other values against steps"
"""Heading of the charts that a page folds away."""


def of_grid(board: BoardView, grid: GridView) -> dict[str, list[Chart]]:
    """The charts of a grid by heading; those of values that do not rank are under `FURTHER`."""
    made = grid.board
    long, cells, standings = made.long, made.cells, made.standings
    if cells is None or standings is None:
        return {FURTHER: list(curves(long, made.grid, None))}
    standings = standings.assign(**unrounded(cells, standings))
    retention = retention_rows(board.loaded.records, made.grid)[QUANTITY].drop_duplicates()
    ranks = long["metric"] == cells.coordinates["metric"]
    charts = {
        "Intervals": [intervals(cells, standings)],
        "Protection against retention": list(trade_offs(cells, standings, long, retention)),
        "Map of the pairs": list(pair_maps(cells)),
        "Against steps": list(curves(long[ranks], made.grid, cells)),
        FURTHER: list(curves(long[~ranks], made.grid, cells)),
    }
    for drawn in charts.values():
        for chart in drawn[1:]:  # a defense looks the same in all, so one legend serves
            chart.figure.update_layout(showlegend=False, height=300)
    return {heading: drawn for heading, drawn in charts.items() if drawn}


def summary(made: Board) -> tuple[str, Chart | None]:
    """The sentence and the chart of a board on the first page: of its first grid with a cost to break the verdict's
    first sentence, and the best defenses and the best control, against the first threat model; without such a grid the
    sentence alone."""
    for grid in made.grids:
        if found := shown(grid.protection):
            controls = found[0].table.set_index("defense")["control"]
            order = in_order(found)
            best = [row for row in order if pd.isna(controls[row])][:SUMMARY]
            best += [row for row in order if controls[row] == "control"][:1]
            if chart := next(protection(grid, [row for row in order if row in best]), None):
                return opening(grid.section.verdict), replace(chart, title=f"{grid.grid.name}. {chart.title}")
    return next((opening(grid.section.verdict) for grid in made.grids if grid.section.verdict), ""), None


def protection(made: GridBoard, only: Sequence[str] | None = None) -> Iterator[Chart]:
    """For each threat model, each defense's cost to break as a multiple of the undefended model's with both
    intervals. only: the rows to show, the best first; None: all."""
    found = shown(made.protection)
    look = looks.of_grid(made.grid)
    for one in found:
        order = in_order(found) if only is None else list(only)
        rows = one.table.set_index("defense").loc[order[::-1]]  # plotly draws upwards
        rows = rows[(rows["control"] != "undefended") & rows["ratio"].notna()]
        if rows.empty:
            continue
        what = "cost to break over that of the undefended model"
        names = [plain(with_control(str(row), control)) for row, control in rows["control"].items()]
        drawn = rows.astype(dict.fromkeys(("ratio", "censored", *BOUNDS), float)).set_axis(names)
        for kind in WIDTHS:  # where all attacks are censored, there is no upper end
            drawn[f"{kind}_high"] = drawn[f"{kind}_high"].mask(drawn["censored"] == 1, drawn["ratio"])
        figure = empty_figure(directed(what, "higher"), "", height=180 + 26 * len(rows), margin_l=10)
        harms = drawn["kind"] == "harms"
        add_dots(figure, drawn, "ratio", [look[str(row)] for row in rows.index], harms)
        add_arrows(figure, drawn[drawn["censored"] > 0])
        if harms.any():
            sign = {"color": NEUTRAL, "symbol": "circle-open", "size": 10}
            add_key(figure, f"retains less than {RETAINED}", mode="markers", marker=sign)
        mark(figure, 1, "undefended", log=True)
        figure.update_xaxes(type="log")
        figure.update_yaxes(type="category", dtick=1, categoryorder="array", categoryarray=names)
        about = f"Dot chart of the {what} by defense, with intervals; its values are in the table below."
        bound = " (→: or more)" if (rows["censored"] > 0).any() else ""
        yield Chart(f"Cost to break against {one.costs.name}{bound}", about, figure)


def intervals(cells: Cells, standings: pd.DataFrame) -> Chart:
    """Each defense's worst case with both intervals, and the mean over attackers."""
    all_looks = looks.of_grid(cells.grid)
    rows = standings.iloc[::-1]  # plotly draws upwards
    look = [all_looks[defense] for defense in rows["defense"]]
    rows = rows.set_index(rows["defense"].map(lambda name: plain(with_control(name, cells.grid.control(name)))))
    figure = empty_figure(_headline(cells), "", height=160 + 26 * len(rows), margin_l=10)
    add_dots(figure, rows, "worst", look, pd.Series(False, rows.index))
    for kind, name in (("ci", "95 %, other seeds"), ("tasks", "95 %, other tasks too")):
        if rows[f"{kind}_low"].notna().any():
            add_key(figure, name, mode="lines", line={"color": NEUTRAL, "width": WIDTHS[kind]})
    if cells.attacked:
        figure.add_scatter(
            x=floats(rows["mean"]),
            y=list(rows.index),
            name="mean over attackers",
            mode="markers",
            marker={"color": NEUTRAL, "size": 11, "symbol": "line-ns-open"},
        )
    if cells.ranking.broken is not None:
        mark(figure, cells.ranking.broken, _broken(cells.ranking), cells.log)
    figure.update_xaxes(type="log" if cells.log else "linear")
    figure.update_yaxes(type="category", dtick=1)
    about = f"Dot chart of {_headline(cells)} by defense, with intervals; its values are in the standings above."
    return Chart(_headline(cells), about, figure)


def trade_offs(cells: Cells, standings: pd.DataFrame, long: pd.DataFrame, retention: pd.DataFrame) -> Iterator[Chart]:
    """For each quantity of what is to be retained, protection against it. retention: these quantities, with columns
    `QUANTITY`."""
    released = long[long["attacker"].isna() & long["concept"].isna()]
    for coordinates in retention.itertuples(index=False, name=None):
        rows = at_coordinates(released, dict(zip(QUANTITY, coordinates, strict=True))).set_index("defense")
        retained = rows[["value", "ci_low", "ci_high"]].set_axis(["retained", "retained_low", "retained_high"], axis=1)
        title = in_words(cells.grid, dict(zip(QUANTITY, coordinates, strict=True)), long)
        for score in ("worst", "mean") if cells.attacked else ("worst",):
            points = standings.join(retained, on="defense").dropna(subset=["retained", score])
            if len(points):
                yield _trade_off(cells, points, score, title)


def _trade_off(cells: Cells, points: pd.DataFrame, score: str, title: str) -> Chart:
    """A point a defense; a line joins the defenses that no other beats in both. score: `worst` or `mean`."""
    what = _headline(cells) if score == "worst" else _headline(cells).replace("worst", "mean", 1)
    figure = empty_figure(f"{title} (higher is better)", what, height=330 + 16 * len(points))
    best = points[_is_undominated(points["retained"].to_numpy(float), cells.score(points[score].to_numpy(float)))]
    best = best.sort_values("retained")
    figure.add_scatter(
        x=floats(best["retained"]),
        y=floats(best[score]),
        mode="lines",
        hoverinfo="skip",
        line={"dash": "dot", "color": "gray"},
        name="no other is better in both",
    )
    all_looks = looks.of_grid(cells.grid)
    for i, defense in points["defense"].items():
        point, look = points.loc[[i]], all_looks[defense]
        figure.add_scatter(
            x=floats(point["retained"]),
            y=floats(point[score]),
            name=plain(defense),
            mode="markers",
            error_x=error_bars(point, "retained", "retained", 1, look.colour),
            error_y=error_bars(point, "worst", "ci", 1, look.colour) if score == "worst" else None,
            marker={"color": look.colour, "symbol": look.symbol, "size": 11},
        )
    # Not of the intervals, which few seeds make so wide that all points would be one.
    figure.update_xaxes(range=range_around(points["retained"]))
    upwards = range_around(points[score], log=cells.log)
    better_up = upwards if cells.ranking.better == "higher" else upwards[::-1]
    figure.update_yaxes(type="log" if cells.log else "linear", range=better_up)
    table = pd.DataFrame(
        {"defense": points["defense"], title: points["retained"].map(number), what: points[score].map(number)}
    )
    about = f"Scatter chart of {what} against {title}, a point a defense; up and right is better."
    return Chart(f"{score}, {title}", about, figure, table)


def pair_maps(cells: Cells) -> Iterator[Chart]:
    """Where the tasks are pairs of three things or more, and at least half of all ordered pairs, a map for each
    defense."""
    pairs = {task: cells.grid.members.get(task, []) for task in map(str, cells.by_task.index)}
    names = sorted({name for pair in pairs.values() for name in pair})
    are_pairs = all(len(pair) == 2 for pair in pairs.values())
    if not are_pairs or len(names) < 3 or 2 * len(pairs) < len(names) * (len(names) - 1):
        return
    values = cells.by_task.to_numpy(float)
    limit = float(np.nanmax(np.abs(np.log(values) if cells.log else values), initial=0))
    for column, defense in enumerate(cells.by_task):
        by_pair = pd.DataFrame(np.nan, names, names)
        for line, (first, second) in enumerate(pairs.values()):
            by_pair.loc[first, second] = values[line, column]
        yield _pair_map(cells, str(defense), by_pair, limit, next(iter(pairs.items())))


def _pair_map(cells: Cells, defense: str, values: pd.DataFrame, limit: float, example: tuple[str, list[str]]) -> Chart:
    """A map of values, a row the first of a pair, a column the second. limit: the end of the colour scale. example: a
    task with its pair, for the titles."""
    task, (first, second) = example
    shades = values.apply(logarithms) if cells.log else values
    what = f"ln {spelled(cells.quantity)}" if cells.log else spelled(cells.quantity)
    texts = values.map(number)
    names = [plain(name) for name in values]
    figure = empty_figure(
        f"second of the pair ({second} in {task})", f"first ({first} in {task})", height=360, margin_l=50
    )
    figure.add_heatmap(
        x=names,
        y=names,
        z=shades.to_numpy().tolist(),
        text=shades.map(lambda shade: "" if pd.isna(shade) else f"{round(shade, 1) + 0.0:.1f}").to_numpy().tolist(),
        texttemplate="%{text}",
        customdata=texts.to_numpy().tolist(),
        hovertemplate="%{x}, %{y}: %{customdata}<extra></extra>",
        textfont={"size": 9},
        colorscale="RdBu" if cells.ranking.better == "higher" else "RdBu_r",
        zmin=-limit,
        zmax=limit,
        showscale=True,
        colorbar={"title": {"text": what, "side": "right"}, "thickness": 10},
    )
    figure.update_xaxes(type="category", dtick=1)
    figure.update_yaxes(type="category", dtick=1, autorange="reversed")
    table = texts.rename_axis("first \\ second").reset_index()
    about = f"Map of {what} of {defense} by pair, mean over seeds; a row the first of the pair, a column the second."
    return Chart(f"{defense}: {what}", about, figure, table)


def curves(long: pd.DataFrame, grid: Grid, cells: Cells | None) -> Iterator[Chart]:
    """Values that are measured at several steps, a chart an attacker and quantity, with bands of 95 % over seeds. long:
    rows of the grid's long-form board. cells: those that rank, if any."""
    measured = long[long["step"].notna() & long["concept"].isna() & long["value"].notna()]
    lines = measured["defense"].nunique()
    for key, rows in measured.groupby([*QUANTITY, "attacker"], dropna=False, sort=False):
        if rows["step"].nunique() > 1:
            parts = [None if pd.isna(part) else str(part) for part in tuple[Any, ...](key)]
            coordinates = dict(zip(QUANTITY, parts, strict=False))
            ranking = cells.ranking if cells is not None and coordinates == cells.coordinates else None
            yield _curve_chart(rows, long, grid, coordinates, parts[-1] or "released", lines, ranking)


def _broken(ranking: Ranking) -> str:
    """The label of the line at the value that counts as broken."""
    return f"broken: {'at or above' if ranking.better == 'lower' else 'at or below'} {ranking.broken:g}"


def _curve_chart(
    rows: pd.DataFrame,
    long: pd.DataFrame,
    grid: Grid,
    coordinates: Mapping[str, str | None],
    attacker: str,
    lines: int,
    ranking: Ranking | None,
) -> Chart:
    """A line chart with a line for each defense. long: all values of the metric. lines: number of defenses. ranking: of
    these values, if they rank."""
    metric = str(coordinates["metric"])
    what = in_words(grid, coordinates, long)
    figure = empty_figure("steps", directed(what, direction(grid, coordinates, long)), height=330 + 16 * lines)
    all_looks = looks.of_grid(grid)
    for defense, line in rows.groupby("defense", sort=False):
        add_line(figure, str(defense), line.sort_values("step"), all_looks[str(defense)])
    if ranking is not None and ranking.broken is not None:
        figure.add_hline(ranking.broken, line={"dash": "dot", "color": "gray"}, annotation_text=_broken(ranking))
    steps = [str(step) for step in sorted(int(step) for step in rows["step"].unique())]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=steps)
    figure.update_yaxes(type="log" if on_log_scale(rows["value"], quantity_of(grid, metric)) else "linear")
    texts = rows.assign(text=[interval(row) for _, row in rows.iterrows()])
    wide = texts.pivot(index="defense", columns="step", values="text").reindex(rows["defense"].unique())
    about = f"Line chart of {what} against steps of {attacker}, with a line for each defense."
    return Chart(f"{attacker}: {what}", about, figure, wide.fillna("").reset_index())


def searches(trials: pd.DataFrame) -> Iterator[Chart]:
    """The best score so far against the trials, a chart for each grid and attacker. trials: of `SearchTables`."""
    defenses = list(trials["defense"].unique())
    all_looks = looks.of_names(defenses)
    for (grid, attacker), tried in trials.groupby(["grid", "attacker"], sort=False):
        figure = empty_figure("trials", "best score so far", height=330 + 16 * len(defenses))
        for defense, line in tried.groupby("defense", sort=False):
            look = all_looks[str(defense)]
            line_style = {"color": look.colour, "width": 1.5, "dash": look.line, "shape": "hv"}
            figure.add_scatter(
                x=floats(line["trial"] + 1), y=floats(line["best"]), mode="lines", line=line_style,
                name=plain(defense),
            )  # fmt: skip
        wide = tried.assign(trials=tried["trial"] + 1, text=tried["best"].map(number))
        table = wide.pivot(index="defense", columns="trials", values="text").reindex(tried["defense"].unique())
        about = (
            f"Line chart of the best score so far of {attacker} against the number of trials, a line for each defense."
        )
        yield Chart(f"{grid}: {attacker}", about, figure, table.reset_index())


def at_coordinates(long: pd.DataFrame, coordinates: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of a long-form board at these coordinates; an empty one matches empty ones alone."""
    for name, wanted in coordinates.items():
        same = long[name].isna() if pd.isna(wanted) else (long[name] == wanted).fillna(False)
        long = long[same.astype(bool)]
    return long


def _is_undominated(x: Floats, y: Floats) -> Bools:
    """Which points no other is better than in one coordinate and at least as good in the other."""
    beats = (x[:, None] >= x) & (y[:, None] >= y) & ((x[:, None] > x) | (y[:, None] > y))
    undominated: Bools = np.logical_not(beats.any(axis=0))
    return undominated


def _headline(cells: Cells) -> str:
    """The ranking value's title, and which way a defender wants it."""
    return f"{'worst ' if cells.attacked else ''}{spelled(cells.quantity)} ({cells.ranking.better} is better)"
