"""What jobs should take, by those that ran before."""

import pytest
from harness.execution.costs import Costs

from tests.helpers import job, spec

ADAM = {"track": "probe", "stage": "attack", "plugin": "adam", "work": 1.0}


def test_nothing_is_known_of_a_stage_that_never_ran():
    costs = Costs([{**ADAM, "stage": "immunize", "seconds": 1.0}])
    assert costs.of(ADAM) is None
    assert costs.total([job(stage="immunize"), job()]) is None
    assert costs.total([]) == 0


def test_entries_of_older_ledgers_are_ignored():
    assert Costs([{**ADAM, "work": None, "seconds": 1.0}]).of(ADAM) is None


def test_costs_are_estimated_from_the_most_similar_jobs():
    own = job()
    costs = Costs([
        {**ADAM, "call": own.about["call"], "seconds": 1.0},
        {**ADAM, "call": own.about["call"], "seconds": 3.0},
        {**ADAM, "call": "another", "seconds": 8.0},
        {**ADAM, "plugin": "lbfgs", "seconds": 20.0},
    ])  # fmt: skip
    assert costs.total([own, own]) == pytest.approx(4.0)  # the same call: means, so that sums come out
    assert costs.of({**ADAM, "call": "new"}) == pytest.approx(4.0)  # the same plugin: (1 + 3 + 8) / 3
    assert costs.of(job(plugin=spec(name="new")).about) == pytest.approx(8.0)  # the same stage


def test_costs_are_proportional_to_the_work():
    costs = Costs()
    costs.add({**ADAM, "work": 10}, 5.0)
    costs.add({**ADAM, "work": 30}, 15.0)
    assert costs.total([job(work=100.0)]) == pytest.approx(50.0)
