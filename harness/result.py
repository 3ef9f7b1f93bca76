"""The outcome of a run, as Python and a notebook show it."""

from __future__ import annotations

import shutil
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError, nearest
from harness.files import user_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from harness.leaderboard.boards import Board


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The outcome of a run. A notebook shows the board's title, and the sentences, the picture, the first table and the
    flags of each grid.

    made: the board. failed: why jobs failed, by key. left_out: by grid that did not run, what this machine lacks for
    it. out: the folder with all of it as files; None if none was asked for.
    """

    made: Board
    failed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None

    @cached_property
    def records(self) -> pd.DataFrame:
        """One measured value a row, columns `harness.records.COLUMNS`."""
        return self.made.records.frame

    @cached_property
    def board(self) -> pd.DataFrame:
        """Values averaged over tasks and seeds with their intervals, long form."""
        return self.made.long

    @cached_property
    def protection(self) -> pd.DataFrame:
        """Costs to break at equal retention: a row for each grid, threat model and defense, columns
        `harness.leaderboard.protection.COLUMNS`."""
        return self.made.protection

    @cached_property
    def standings(self) -> pd.DataFrame:
        """Ranks, worst cases and flags: a row for each grid and defense."""
        return self.made.standings

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By grid, the readable table that its board shows first."""
        return self.made.tables

    @cached_property
    def verdict(self) -> dict[str, str]:
        """By grid, the sentences that its data bear out."""
        return self.made.verdict

    @cached_property
    def flags(self) -> dict[str, list[str]]:
        """By grid, a line for each flag: its rows, its meaning, and advice."""
        return self.made.flag_lines

    @cached_property
    def text(self) -> str:
        """The whole board, as Markdown."""
        return self.made.text

    def summary(self, width: int | None = None) -> str:
        """The board's title, and the sentences, a table and the flags of each grid. width: characters of a line
        (default: the terminal's)."""
        from harness.leaderboard import terminal

        return terminal.summary(self.made, width or shutil.get_terminal_size().columns)

    def plot(self, grid: str | None = None, width: float | None = None) -> Figure:
        """A matplotlib figure: each defense's cost to break as a multiple of the undefended model's, with its interval.

        grid: a grid's name; None: the first with such costs. width: in inches, with texts of 8 points, as a paper needs
        it: `result.plot(width=3.3).savefig("costs.pdf")`; None: 7 inches. Raises `UsageError` if there is no such grid,
        or if no cost to break is known.
        """
        names = [one.grid.name for one in self.made.grids]
        if grid is not None and grid not in names:
            raise UsageError(f"the result has no grid '{grid}'; {nearest(grid, names)}")
        figures = (self.made.intervals(name, width) for name in names if grid in (None, name))
        figure = next((figure for figure in figures if figure is not None), None)
        if figure is None:
            raise UsageError("no cost to break is known, so there is nothing to plot: run the suite with attackers")
        return figure

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        parts = [f"<h2>{escape(self.made.title)}</h2>"]
        for grid, table in self.tables.items():
            parts += [f"<h3>{escape(grid)}</h3>", f"<p>{escape(self.verdict[grid])}</p>"]
            if picture := self._picture(grid):
                parts.append(f'<img src="data:image/png;base64,{b64encode(picture).decode()}">')
            lines = "".join(f"<li>{escape(line)}</li>" for line in self.flags[grid])
            parts += [table.to_html(index=False), f"<details><summary>Flags</summary><ul>{lines}</ul></details>"]
        return "".join(parts)

    def _picture(self, grid: str) -> bytes | None:
        """The figure of `plot` as PNG."""
        figure = self.made.intervals(grid)
        if figure is None:
            return None
        figure.savefig(data := BytesIO(), dpi=110, format="png")
        return data.getvalue()


def load(folder: str | Path, plugins: Sequence[str | Path] = ()) -> Result:
    """The result of an earlier run, without computing anything.

    folder: the folder that the run wrote. plugins: files of plugins, one of which holds the suite's track if it is not
    installed. Raises `UsageError` if the folder holds no run.
    """
    from harness.leaderboard import boards
    from harness.submission import merge
    from harness.submission.run_folder import RUN

    out = user_path(folder).absolute()
    if not (out / RUN).is_file():
        raise UsageError(f"{folder} holds no {RUN}; `immunebench run` writes it")
    records = merge.load([out / RUN], [user_path(plugin) for plugin in plugins]).records
    failed = records.frame[records.frame["status"] == "failed"]
    reasons = dict(zip(failed["key"].astype(str), failed["note"].astype(str), strict=True))
    return Result(boards.make(records), reasons, out=out)
