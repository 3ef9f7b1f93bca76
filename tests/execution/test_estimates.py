"""Time estimates from the cost of earlier jobs."""

import pytest

from harness.execution.estimates import Estimates
from harness.plan import make
from harness.selection import Selection
from harness.suite_reader import load
from tests.stages import Adapt, spec

ADAM = {"track": "test", "stage": "adapt", "plugin": "adam", "work": 1.0}


def test_a_stage_that_never_ran_has_no_estimate():
    estimates = Estimates([{**ADAM, "stage": "measure", "seconds": 1.0}])
    assert estimates.of(ADAM) is None
    assert estimates.total([Adapt(plugin=spec())]) is None
    assert estimates.total([]) == 0


def test_the_most_similar_jobs_count():
    job = Adapt(plugin=spec(), steps=1)
    estimates = Estimates([
        {**ADAM, "call": job.about["call"], "seconds": 1.0},
        {**ADAM, "call": job.about["call"], "seconds": 3.0},
        {**ADAM, "call": "another", "seconds": 8.0},
        {**ADAM, "plugin": "lbfgs", "seconds": 20.0},
    ])  # fmt: skip
    assert estimates.total([job, job]) == pytest.approx(4.0)  # the same call: means, so that sums come out
    assert estimates.of({**ADAM, "call": "new"}) == pytest.approx(4.0)  # the same plugin: (1 + 3 + 8) / 3
    assert estimates.of(Adapt(plugin=spec(name="new")).about) == pytest.approx(8.0)  # the same stage


def test_estimates_are_proportional_to_the_work():
    estimates = Estimates()
    estimates.add({**ADAM, "work": 10}, 5.0)
    estimates.add({**ADAM, "work": 30}, 15.0)
    assert estimates.total([Adapt(plugin=spec(), steps=100)]) == pytest.approx(50.0)


def test_a_larger_network_is_not_estimated_from_a_smaller_one():
    estimates = Estimates([{**ADAM, "network": "small", "seconds": 1.0}])
    assert estimates.of({**ADAM, "network": "small"}) == pytest.approx(1.0)
    assert estimates.of({**ADAM, "network": "large"}) is None


def test_what_never_ran_here_is_estimated_from_another_machine():
    adam, other = Adapt(plugin=spec(name="adam"), steps=1), Adapt(plugin=spec(name="lbfgs"), steps=1)
    elsewhere = Estimates([{**ADAM, "seconds": 2.0}])
    nowhere_here = Estimates([], elsewhere)
    assert nowhere_here.total([adam, other]) == pytest.approx(4.0)
    assert nowhere_here.borrowed([adam, other]) == 2
    here = Estimates([{**ADAM, "seconds": 1.0}], elsewhere)
    assert here.total([adam]) == pytest.approx(1.0)
    assert here.borrowed([adam]) == 0


def test_the_costs_survive_as_a_table():
    """The printed table, read again, gives the same estimates."""
    estimates = Estimates([{**ADAM, "seconds": 3.0}, {**ADAM, "plugin": None, "work": 2.0, "seconds": 1.0}])
    again = Estimates(estimates.rows())
    assert again.of(ADAM) == pytest.approx(3.0)
    assert again.of({**ADAM, "plugin": None}) == pytest.approx(0.5)


def test_a_new_machine_has_an_estimate_for_quick():
    plan = make(load("quick"))
    seconds, unknown = Estimates.here([]).known(plan.jobs.values())
    assert unknown == 0
    assert seconds > 60


def test_linear_probes_on_more_rows_are_not_estimated_from_probes_on_fewer():
    """The reference costs have each kind of task apart, and the time of a suite adds up its grids'."""
    by_kind: dict[str, list[float]] = {}
    estimates, part = Estimates.here([]), Selection.of(defenses=["condition_number"], attackers=["krylov"], seeds=1)
    for suite in ("digits", "families", "house_prices"):
        for job in make(load(suite, part)).jobs.values():
            if job.name == "immunize" and job.about["plugin"] == "condition_number":
                by_kind.setdefault(job.network, []).append(estimates.of(job.about, job.work) or 0)
    assert set(by_kind) == {
        "mnist5k single-class",
        "mnist5k one-vs-rest",
        "mnist5k one-vs-rest family of 3",
        "house_prices",
    }
    seconds = {kind: max(values) for kind, values in by_kind.items()}
    assert 0 < seconds["mnist5k single-class"] < seconds["mnist5k one-vs-rest family of 3"]
