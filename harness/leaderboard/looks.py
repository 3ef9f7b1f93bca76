"""One look for each defense of a grid in all its pictures and charts: colours for defenses, greys for controls.

The colours are those of Okabe and Ito (2008) that are readable on white and on black, and a purple.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from harness.suite import Grid

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1")
CONTROL, UNDEFENDED = "#999999", "#666666"
MARKERS = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x",
    "*": "star", "h": "hexagon",
}  # fmt: skip
"""Names of markers in matplotlib and in plotly."""
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
"""Names of line styles in matplotlib and in plotly."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style, by matplotlib's names."""

    colour: str
    marker: str = "o"
    dash: str = "-"

    @property
    def symbol(self) -> str:
        """The marker's name in plotly."""
        return MARKERS[self.marker]

    @property
    def line(self) -> str:
        """The line style's name in plotly."""
        return DASHES[self.dash]


def of_names(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; no two of 63 are alike in colour and marker."""
    return {name: _look(COLOURS, place) for place, name in enumerate(names)}


def of_grid(grid: Grid) -> dict[str, Look]:
    """The look of each row of a grid, and of each sweep by its label; the rows of a sweep share colour and line."""
    found: dict[str, Look] = {}
    defenses = controls = 0
    for row in grid.defenses:
        family, control = grid.family(row), grid.control(row)
        if family not in found:
            if control == "undefended":
                found[family] = Look(UNDEFENDED, "s", ":")
            elif control is not None:
                found[family] = replace(_look((CONTROL,), controls), dash=list(DASHES)[1 + controls % 3])
                controls += 1
            else:
                found[family] = _look(COLOURS, defenses)
                defenses += 1
        if row != family:
            strengths = grid.sweeps[family]
            marker = list(MARKERS)[strengths.index(row) % len(MARKERS)]
            found[row] = replace(found[family], marker=marker)
    return found


def _look(colours: tuple[str, ...], place: int) -> Look:
    markers, dashes = list(MARKERS), list(DASHES)
    return Look(
        colours[place % len(colours)], markers[place % len(markers)], dashes[place // len(colours) % len(dashes)]
    )
