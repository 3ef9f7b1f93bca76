"""The step sizes of the presets are those that the suite `strength` gives by the rule in its description."""

from itertools import takewhile
from pathlib import Path

import pytest

from harness.registry import Registry
from harness.submission import read_write as submission

STRENGTH = Path(__file__).parents[2] / "results" / "submissions" / "strength" / "strength.json.gz"
LEAVES = 0.95


@pytest.fixture(scope="module")
def allowed():
    """By grid and defense's label, whether it keeps enough of the undefended retention of every kind on every group."""
    records = submission.read(STRENGTH).records().frame
    rates = records[records["metric"] == "retention"]
    rates = rates.assign(kind=rates["role"] + rates["split"].fillna(""), value=rates["value"].astype(float))
    rates = rates.pivot_table(index=["grid", "task", "kind"], columns="defense", values="value").dropna(subset="none")
    return rates.ge(LEAVES * rates["none"] - 1e-12, axis=0).groupby("grid").all()


@pytest.mark.parametrize("defense", ["ascent", "joint", "compose", "mima", "imma"])
def test_presets_take_the_largest_step_size_that_keeps_retention(allowed, defense):
    presets = Registry().get("defense", defense).load().presets
    sizes = {float(label.removeprefix(f"{defense}_")): label for label in allowed if label.startswith(f"{defense}_")}
    for suite in ("styles", "objects", "personal"):
        if f"small_{suite}" not in presets:
            continue
        grid = "styles_one" if defense == "imma" else suite  # which takes one concept at a time
        leaving = [*takewhile(lambda size, grid=grid: allowed.loc[grid, sizes[size]], sorted(sizes))]
        assert presets[f"small_{suite}"]["lr"] == leaving[-1] > 0
