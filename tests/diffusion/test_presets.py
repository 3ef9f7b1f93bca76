"""The step sizes of the presets are those that the suite `strength` gives by the rule in its description."""

from pathlib import Path

import pytest

from harness.catalogue import Catalogue
from harness.publishing import submission

STRENGTH = Path(__file__).parents[2] / "results" / "submissions" / "strength" / "strength.json.gz"
LEAVES = 0.95
GRIDS = {"styles": "styles", "styles_one": "styles", "objects": "objects", "personal": "personal"}


@pytest.fixture(scope="module")
def allowed():
    """By grid and defense's label, whether it leaves enough of the undefended rate of every kind on every group."""
    records = submission.read(STRENGTH).records()
    rates = records[(records["metric"] == "rate") & records["role"].isin(["kept", "benign"])]
    rates = rates.assign(kind=rates["role"] + rates["split"].fillna(""), value=rates["value"].astype(float))
    rates = rates.pivot_table(index=["grid", "task", "kind"], columns="defense", values="value").dropna(subset="none")
    enough = rates.ge(LEAVES * rates["none"] - 1e-12, axis=0) | rates.isna()
    return enough.groupby("grid").all()


@pytest.mark.parametrize("defense", ["ascent", "joint", "compose", "mima", "imma"])
def test_the_largest_that_leaves_enough_as_all_smaller_ones_do(allowed, defense):
    presets = Catalogue().get("defense", defense).load().presets
    for grid, suite in GRIDS.items():
        labels = [label for label in allowed if label.startswith(f"{defense}_")]
        if (grid == "styles_one") != (defense == "imma") or f"small_{suite}" not in presets:
            continue
        largest = 0.0
        for size, label in sorted((float(label.removeprefix(f"{defense}_")), label) for label in labels):
            if not allowed.loc[grid, label]:
                break
            largest = size
        assert presets[f"small_{suite}"]["lr"] == largest > 0
