"""Plans: the cells of a grid, what they share, and which jobs are missing."""

import json
from collections import Counter

from harness.costs import COST
from harness.plan import make
from harness.stage import unique
from harness.store import Store
from harness.suite_reader import load
from tests.runs import TWO_LAYER, plan, write_suite


def test_the_identity_of_a_real_job_is_pinned():
    """The first attack; its model's key and the digests of code are masked, everything else is pinned."""
    attack = next(job for job in plan().jobs.values() if job.plugin and job.plugin.kind == "attacker")
    identity = attack.identity
    assert {len(identity["plugin"].pop("source")), len(identity["model"].pop("stage")), len(identity.pop("code"))} == {
        64
    }
    assert identity == {
        "track": "two_layer",
        "stage": "adapt",
        "version": 1,
        "plugin": {"kind": "attacker", "name": "full_descent", "params": {"lr": 0.1}},
        "seed": None,
        "task": {"teacher": 1},
        "steps": 50,
        "model": {},
    }


def test_cells_share_jobs_and_what_draws_nothing_is_one_cell_for_all_seeds():
    """Two tasks, two defenses, one attacker and two seeds; only the metric `sharpness` draws."""
    made = plan()
    assert Counter(job.name for job in made.jobs.values()) == {
        "adapt": 2 * (2 + 2),  # models and attacks
        "measure": 2 * 2 * (2 + 1),  # sharpness for each seed, the attacked error once
        "run_cost": 2 * 2 * 2,
    }
    assert len(made.cells) == 2 * 2 * (2 + 1 + 2)
    for cell in made.cells:
        assert (cell.coordinates["seed"] is not None) == (cell.coordinates["measured_by"] == "sharpness")
    seen: set[str] = set()
    for key, job in made.jobs.items():
        assert all(parent.key in seen for parent in job.parents)  # parents first
        seen.add(key)


def test_every_row_has_its_run_cost():
    costs = [cell for cell in plan().cells if cell.coordinates["measured_by"] == COST]
    rows = {(cell.coordinates["task"], cell.coordinates["defense"], cell.coordinates["attacker"]) for cell in costs}
    assert rows == {(task, defense, attacker) for task in "12" for defense in ("none", "shrinking")
                    for attacker in (None, "full_descent")}  # fmt: skip


def test_keys_do_not_depend_on_other_rows_labels_or_names(tmp_path):
    def keys(made):
        return {json.dumps({**cell.coordinates, "grid": ""}, sort_keys=True): cell.job.key for cell in made.cells}

    def more(suite):
        suite["name"], suite["version"] = "other", 7
        (grid,) = suite["grids"]
        grid["name"] = "renamed"
        grid["defenses"] = {"half": {"plugin": "shrinking", "share": 0.5}, "shrinking": {"share": 0.05}, "none": None}

    before, after = keys(plan()), keys(plan(write_suite(tmp_path, more)))
    assert {cell: key for cell, key in after.items() if cell in before} == before
    assert len(after) == len(before) * 3 / 2


def test_without_the_undefended_row_its_models_are_still_attacked():
    alone = plan(defenses=["shrinking"])
    assert any(job.plugin and job.plugin.name == "none" for job in alone.jobs.values())
    assert {cell.coordinates["defense"] for cell in alone.cells} == {"shrinking"}


def test_a_part_of_a_plan_has_the_jobs_of_its_cells():
    made = plan()
    part = made.part({made.cells[-1].job.key})
    assert part.jobs == unique([made.cells[-1].job])
    attacked = [cell for cell in made.cells if cell.coordinates["attacker"]]
    assert made.describe(attacked[-1].job) == "2 · shrinking · full_descent"


def test_only_jobs_that_a_cell_needs_are_missing():
    made, store = make(load(TWO_LAYER)), Store()
    assert len(made.missing(store)) == len(made.jobs)
    for cell in made.cells:
        with store.write(cell.job.key, dict(cell.job.about)) as out:
            if out is not None:
                (out / "values.json").write_text("[]")
    assert not made.missing(store)  # models are not needed any more
    lost = made.cells[-1].job
    store.discard(lost.key)
    assert set(made.missing(store)) == {job.key for job in lost.ancestry()}
