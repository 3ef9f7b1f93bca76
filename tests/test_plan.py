"""A job's identity, what cells share, and what is left to run."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan import ancestry, digest, make, seed_of
from harness.store import Store
from harness.suite import load
from tests.helpers import change, job, spec


def test_keys_are_pinned():
    """If one of these moves, everybody's store is lost: raise a stage's version instead."""
    assert job().key == "637c6339c8d860e10eb5ea953541a1d7a3a688abaec59caf547a312551ce8907"
    assert (
        job(parents={"model": job(stage="immunize")}).key
        == "600cb7306e698ba1cb6f88ad463c7fa6c4f8111224e4d422db2da2e096e3d113"
    )
    assert seed_of("attack", "P3-H8", "harmful", 1) == 7628904211744655594


@pytest.mark.parametrize(
    "changes",
    [
        {"track": "diffusion"},
        {"stage": "measure"},
        {"version": 2},
        {"inputs": {"steps": 11, "data": "é"}},
        {"plugin": spec(params={"lr": 0.02})},
        {"plugin": spec(source="1" * 64)},
        {"plugin": spec(name="adam2")},
        {"plugin": None},
        {"seed": 8},
        {"seed": None},
        {"parents": {"model": job()}},
    ],
)
def test_all_that_matters_changes_the_key(changes):
    assert job(**changes).key != job().key


@pytest.mark.parametrize(
    "changes",
    [
        {"transient": True},
        {"plugin": spec(module="elsewhere", file="/some/where.py", attribute="Other", deterministic=True)},
        {"inputs": {"data": "é", "steps": 10}},
    ],
)
def test_source_order_and_runtime_settings_change_no_key(changes):
    assert job(**changes).key == job().key


def test_inputs_that_json_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        job(inputs={"x": float("nan")}).key  # noqa: B018 (a property, which raises)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()))
def test_digest_ignores_order_only(value):
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest(value) == digest(json.loads(json.dumps(value)))
    assert digest(value) != digest({**value, "more": 1, "": 0})


def test_the_identity_of_a_real_job_is_pinned(tiny: Path):
    """The tiny suite's first attack; sources and data are masked, all else is pinned."""
    made = make(load(str(tiny)))
    attack = next(j for j in made.jobs.values() if j.stage == "attack")
    identity = attack.identity
    assert identity["plugin"].pop("source")
    assert len(identity["inputs"].pop("data")) == len(identity["parents"].pop("model")) == 64
    assert identity == {
        "track": "probe",
        "stage": "attack",
        "version": 1,
        "inputs": {
            "task": {"data": "house_prices", "framing": None, "benign": None, "harmful": None},
            "loss": "squared",
            "steps": 5,
            "measure_at": [0, 1, 5],
            "role": "benign",
        },
        "plugin": {"kind": "attacker", "name": "gradient_descent", "params": {"step": "line_search"}},
        "seed": None,
        "parents": {},
    }


def stages(made):
    counts: dict[str, int] = {}
    for each in made.jobs.values():
        counts[each.stage] = counts.get(each.stage, 0) + 1
    return counts


def test_cells_share_what_they_can(tiny: Path):
    """Three defenses: one draws nothing, two draw for two seeds. The undefended attacks are one a side and
    attacker, for all rows and seeds."""
    made = make(load(str(tiny)))
    models = 1 + 2 * 2
    assert stages(made) == {
        "immunize": models,
        "spectrum": models,
        "rir": models,
        "attack": models * 2 * 2,
        "progress": models * 2 * 2,
    }
    assert len(made.cells) == models + models * 2 * 2
    seen: set[str] = set()
    for key, each in made.jobs.items():
        assert all(parent.key in seen for parent in each.parents.values())  # parents first
        seen.add(key)


def test_keys_do_not_depend_on_other_rows(tiny: Path):
    def keys(suite):
        cells = make(suite).cells
        return {json.dumps({**cell.coordinates, "suite": ""}, sort_keys=True): cell.job.key for cell in cells}

    before = keys(load(str(tiny)))
    rows = {"whitening": {}, "condition_number": {"preset": "house_prices", "epochs": 1}, "random_init": {}, "none": {}}
    after = keys(load(change(tiny, name="other", grids__0__defenses=rows)))
    assert {cell: key for cell, key in after.items() if cell in before} == before
    # Without the undefended row it is still computed, to compare with.
    alone = make(load(str(tiny), defenses=["random_init"]))
    assert any(each.plugin and each.plugin.name == "none" for each in alone.jobs.values())
    assert {cell.coordinates["defense"] for cell in alone.cells} == {"random_init"}


def test_missing_jobs_are_those_without_an_artifact_that_a_cell_needs(tiny: Path):
    made = make(load(str(tiny)))
    store = Store()
    assert len(made.missing(store)) == len(made.jobs)
    for cell in made.cells:
        with store.writing(cell.job.key, cell.job.about) as out:
            (out / "records.json").write_text("[]")
    assert not made.missing(store)  # that the models are gone does not matter
    gone = made.cells[-1].job
    store.discard(gone.key)
    assert set(made.missing(store)) == {each.key for each in ancestry(gone)}
