"""Saving the figures that stand beside a table."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

mpl.rcParams["svg.hashsalt"] = "immunebench"  # the same picture is the same file
mpl.rcParams["svg.fonttype"] = "none"  # text as text: smaller, and can be found


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; the files."""
    FigureCanvasAgg(figure)
    files = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    figure.savefig(files[0], dpi=110, metadata={"Software": None})
    figure.set_layout_engine("none")  # as laid out; laying it out again takes as long as drawing it
    figure.savefig(files[1], metadata={"Date": None})
    return files
