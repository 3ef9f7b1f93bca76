"""Plans: the cells of a grid, what they share, and which jobs are missing."""

import json
from collections import Counter

import pytest
import yaml

from harness.costs import COST
from harness.errors import RunError
from harness.plan import available, make
from harness.probe import data
from harness.stage import unique
from harness.store import Store
from harness.suite_reader import load
from tests.helpers import immunebench
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


@pytest.fixture
def without_houses(monkeypatch):
    """A machine without the house prices."""

    def absent():
        raise RunError("the houses are not here: fetch them")

    monkeypatch.setitem(data._TABLES, "house_prices", absent)
    for cached in (data._raw, data.digest):
        cached.cache_clear()
    yield
    data._raw.cache_clear()


def test_a_grid_without_its_data_is_left_out_with_one_line(tiny, without_houses, tmp_path):
    content = yaml.safe_load(tiny.read_text())
    (houses,) = content["grids"]
    digits = {"name": "digits", "tasks": [{"data": "mnist5k", "framing": "single-class", "pairs": [[3, 8]]}]}
    content["grids"].append({**houses, **digits, "defenses": {"none": None}, "attackers": {}})
    tiny.write_text(yaml.safe_dump(content))
    suite, left_out = available(load(str(tiny)))
    assert [grid.name for grid in suite.grids] == ["digits"]
    assert left_out == {"house_prices": "the houses are not here: fetch them"}
    line = "grid house_prices is left out: the houses are not here: fetch them"
    assert line in immunebench("plan", tiny).stdout.splitlines()
    done = immunebench("run", tiny, "--workers", 1, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr.count(line)) == (0, 1)
    assert "house_prices" not in (tmp_path / "out" / "leaderboard.csv").read_text()


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_suite_without_any_of_its_data_is_refused_before_it_runs(tiny, without_houses, command):
    done = immunebench(command, tiny)
    assert (done.returncode, done.stderr) == (2, "immunebench: the houses are not here: fetch them\n")
