"""The plots."""

from pathlib import Path

from harness.probe.plots import plots
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


def test_curves_are_drawn_of_attacks(tmp_path: Path):
    places = {"attacker": "adam", "role": "harmful", "variant": None}
    rows = [record(task="house_prices", metric="excess_loss", step=s, value=1 / (1 + s), **places) for s in (0, 1, 9)]
    assert plots(frame(rows), tmp_path) == [tmp_path / "digits_steps.png"]
    assert (tmp_path / "digits_steps.png").is_file()
