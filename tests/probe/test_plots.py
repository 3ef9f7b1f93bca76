"""The plots."""

import math
from pathlib import Path

import numpy as np

from harness.probe.plots import _rir_maps, plots
from harness.records import frame


def record(**fields):
    return {
        "grid": "digits",
        "defense": "none",
        "metric": "rir",
        "variant": "floor",
        "split": "train",
        "status": "ok",
    } | fields


def test_the_map_is_drawn_for_all_pairs_only(tmp_path: Path):
    pairs = [(p, h) for p in range(10) for h in range(10) if p != h]
    records = frame(record(task=f"P{p}-H{h}", value=float(1 + p)) for p, h in pairs)
    assert plots(records, tmp_path) == [tmp_path / "digits_log_rir.png"]
    assert plots(records[:50], tmp_path) == []


def test_rows_of_the_map_are_benign_digits():
    """As in the paper's Figure 2: every pair with the benign digit 7 has a ln RIR of 3, all others of 0."""
    pairs = [(p, h) for p in range(10) for h in range(10) if p != h]
    figure = _rir_maps(frame(record(task=f"P{p}-H{h}", value=math.exp(3 * (p == 7))) for p, h in pairs))
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["0"] * 63 + ["3"] * 9 + ["0"] * 18
    drawn = axis.images[0].get_array()
    assert np.nanmean(drawn, axis=1).round(6).tolist() == [0] * 7 + [3, 0, 0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("harmful digit", "benign digit")
