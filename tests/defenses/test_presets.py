"""The step sizes of the presets are those that the suite `strength` gives by the rule in its description, and the
standard suites sweep their neighbours. Those of attackers lie within the ranges that a search tries."""

import json
from itertools import takewhile
from pathlib import Path

import pytest

from harness.registry import Registry, installed
from harness.submission import read_write as submission
from harness.suite_file import find, read

STRENGTH = Path(__file__).parents[2] / "results" / "submissions" / "strength" / "strength.json.gz"
LEAVES = 0.95
STYLES = {
    **dict.fromkeys(["ascent", "joint", "compose", "mima"], "styles"),
    "imma": "styles_one",  # it takes one concept at a time
    **dict.fromkeys(["resalign", "meta_unlearning", "sophon", "rep_noise", "clamp"], "styles_newer"),
}
"""By defense, the grid that chooses its preset `small_styles`."""


@pytest.fixture(scope="module")
def strength():
    """The suite as it ran, and by grid and row whether it keeps enough of the undefended retention of every kind on
    every group."""
    records = submission.read(STRENGTH).records()
    rates = records.frame[records.frame["metric"] == "retention"]
    rates = rates.assign(kind=rates["role"] + rates["split"].fillna(""), value=rates["value"].astype(float))
    rates = rates.pivot_table(index=["grid", "task", "kind"], columns="defense", values="value").dropna(subset="none")
    return records.suite, rates.ge(LEAVES * rates["none"] - 1e-12, axis=0).groupby("grid").all()


@pytest.mark.parametrize("defense", STYLES)
def test_presets_take_the_largest_step_size_that_keeps_retention(strength, defense):
    presets = Registry().get("defense", defense).load().presets
    suite, allowed = strength
    grids = {STYLES[defense]: "styles", "objects": "objects", "personal": "personal"}
    ran = [grid for grid in suite.grids if grid.name in grids and f"small_{grids[grid.name]}" in presets]
    assert ran
    for grid in ran:
        preset = presets[f"small_{grids[grid.name]}"]
        sizes = {spec.params["lr"]: label for label, spec in grid.defenses.items() if spec.name == defense}
        leaving = [*takewhile(lambda size, at=grid.name, of=sizes: allowed.loc[at, of[size]], sorted(sizes))]
        assert preset["lr"] == leaving[-1] > 0
        chosen = grid.defenses[sizes[leaving[-1]]].params
        measured = {name: chosen[name] for name in preset}
        assert json.loads(json.dumps(preset)) == measured  # a submission has lists for tuples


@pytest.mark.parametrize("entry", installed().all("attacker"), ids=lambda entry: entry.name)
def test_presets_lie_within_what_a_search_tries(entry):
    cls = entry.load()
    for preset in cls.presets.values():
        for name, value in preset.items():
            search = (cls.__pydantic_fields__[name].json_schema_extra or {}).get("search", {})
            assert value in search.get("choices", [value]), name
            assert search.get("low", value) <= value <= search.get("high", value), name


@pytest.mark.parametrize(("name", "number"), [("styles", 3), ("objects", 2)])
def test_the_boards_sweep_from_the_preset_upward(name, number):
    """Successive step sizes of the suite `strength`."""
    tried = {
        label: row.sweep.get("lr") for grid in read(find("strength")).grids for label, row in grid.defenses.items()
    }
    swept = {
        (label, *row.sweep["lr"])
        for grid in read(find(name)).grids
        for label, row in grid.defenses.items()
        if row.sweep
    }
    assert {label for label, *_ in swept} >= {"ascent", "joint", "compose", "mima"}
    for label, *sizes in swept:
        place = tried[label].index(Registry().get("defense", label).load().presets[f"small_{name}"]["lr"])
        assert sizes == tried[label][place : place + number]
