"""When a value that was measured again agrees with the submitted one."""

import copy
import json
import math

import pytest
from scipy import stats

from harness.costs import COSTS
from harness.metric import Quantity
from harness.submission import read_write
from harness.submission.agreement import Agreement, Spread, compare
from tests.submission.forge import reseal

QUANTITIES = {
    "rir": Quantity(name="rir", title="RIR", scale="log", description="a ratio"),
    "score": Quantity(name="score", title="score", description="a difference"),
    **{quantity.name: quantity for quantity in COSTS},
}


@pytest.fixture
def seeds(content):
    """`seeds(metric, value, value, …)`: a submission with one value of one row at seeds 1, 2, …; of several tasks with
    `tasks`, a label for each value."""

    def make(metric, *values, tasks=()):
        changed = copy.deepcopy(content)
        grid = changed["suite"]["grids"][0]
        grid["seeds"] = list(range(1, len(values) + 1))
        grid["members"] = {task: [task] for task in tasks or "1"}
        grid["quantities"] = [quantity.model_dump() for quantity in QUANTITIES.values()]
        changed["kinds"] = [[{"metric": metric, "value": None, "variant": "floor"}]]
        changed["cells"] = []
        for place, value in enumerate(values):
            row = {"grid": "teachers", "task": (tasks or "1" * len(values))[place], "defense": "shrinking"}
            coordinates = row | {"seed": place + 1, "measured_by": "sharpness"}
            cell = {"coordinates": coordinates, "key": f"{place:064x}", "kind": 0, "values": [value], "files": {}}
            reseal(changed, cell)
            changed["cells"].append(cell)
        return read_write.parse(json.loads(json.dumps(changed)), "here")

    return make


def agreement(submission, again, compared=1, **fields):
    """Of the first seed's value."""
    cell = submission.cells[0]
    submitted = submission.values(cell)
    remeasured = [{**submitted[0], "value": again, **fields}]
    spread = Spread(submission, compared)
    return [value.agreement for value in compare(submitted, remeasured, cell, QUANTITIES, spread)]


@pytest.mark.parametrize(
    ("again", "how"),
    [
        (0.5, Agreement.exact),
        (0.5 + 1e-8, Agreement.tolerance),
        (0.5 * (1 + 9e-7), Agreement.tolerance),
        (0.5 * (1 + 2e-6), Agreement.none),
        (None, Agreement.none),
    ],
)
def test_rounding_passes_and_no_more(seeds, again, how):
    assert agreement(seeds("score", 0.5), again) == [how]


def test_zero_agrees_with_what_rounding_leaves_of_it(seeds):
    assert agreement(seeds("score", 0.0), 1e-12) == [Agreement.tolerance]
    assert agreement(seeds("score", 0.0), 1e-6) == [Agreement.none]
    assert agreement(seeds("score", None), None) == [Agreement.exact]
    assert agreement(seeds("score", None), 0.5) == [Agreement.none]


@pytest.mark.parametrize("compared", [1, 5])
def test_a_second_draw_lies_within_the_spread_of_the_other_seeds(seeds, compared):
    """Others 1, 2, 3 twice: s² = 4 / 5, five degrees of freedom; the first seed's own value does not widen it."""
    reach = stats.t.ppf(1 - 0.025 / compared, 5) * math.sqrt(4 / 5) * math.sqrt(2)
    for value in (2.0, 1000.0):
        submission = seeds("score", value, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0)
        assert agreement(submission, value + 0.999 * reach, compared) == [Agreement.interval]
        assert agreement(submission, value - 1.001 * reach, compared) == [Agreement.none]


def test_a_ratio_is_compared_as_its_logarithm(seeds):
    reach = math.exp(stats.t.ppf(0.975, 2) * math.log(10) * math.sqrt(2))
    submission = seeds("rir", 5.0, 1.0, 10.0, 100.0)
    assert agreement(submission, 5 * reach**0.999) == [Agreement.interval]
    assert agreement(submission, 5 * reach**1.001) == [Agreement.none]
    assert agreement(submission, -1.0) == [Agreement.none]


def test_two_other_seeds_have_no_spread(seeds):
    assert agreement(seeds("score", 1.0, 2.0), 1.1) == [Agreement.none]
    assert agreement(seeds("score", 1.0, 2.0, 9.0), 1.1) == [Agreement.none]
    assert agreement(seeds("score", 1.0, 2.0, 2.0, 2.0), 1.1) == [Agreement.none]
    assert agreement(seeds("score", 1.0, 2.0, 9.0, 2.0), 1.1) == [Agreement.interval]


def test_however_many_values_are_compared_the_reach_ends(seeds):
    """Others 1, 2, 3: s = 1; t of two degrees of freedom would allow 45 of it."""
    submission = seeds("score", 2.0, 1.0, 2.0, 3.0)
    assert agreement(submission, 2 + 5.99 * math.sqrt(2), 1000) == [Agreement.interval]
    assert agreement(submission, 2 + 6.01 * math.sqrt(2), 1000) == [Agreement.none]


def test_the_spread_is_pooled_over_tasks(seeds):
    """Two tasks of two seeds each: the one's other seed tells nothing alone, the other's two have s² = 2; with a third
    task s² = (2 + 8) / 2."""
    submission = seeds("score", 5.0, 6.0, 1.0, 3.0, 1.0, 5.0, tasks="aabbcc")
    reach = stats.t.ppf(0.975, 2) * math.sqrt(5) * math.sqrt(2)
    assert agreement(submission, 5 + 0.999 * reach) == [Agreement.interval]
    assert agreement(submission, 5 + 1.001 * reach) == [Agreement.none]


@pytest.mark.parametrize("remark", [{"note": "lower bound"}, {"flag": "lower-bound"}])
def test_remarks_must_be_the_same_where_the_value_is(seeds, remark):
    submission = seeds("score", 2.0, 1.0, 2.0, 3.0)
    assert agreement(submission, 2.0, **remark) == [Agreement.none]
    assert agreement(submission, 2.5, **remark) == [Agreement.interval]


def test_seconds_and_memory_are_not_compared_and_the_harness_knows_which_these_are(seeds):
    assert agreement(seeds("seconds", 1.0), 99.0) == []
    assert agreement(seeds("peak_mb", 1.0), 99.0) == []
    assert agreement(seeds("plugin_steps", 1.0), 99.0) == [Agreement.none]
    assert agreement(seeds("score", 1.0), 99.0) == [Agreement.none]


def test_whole_numbers_tell_nothing_of_how_they_were_computed(seeds):
    submission = seeds("score", 0.3)
    submitted = submission.values(submission.cells[0])
    for again, telling in ((0.3, True), (0.0, False), (60, False), (None, False)):
        (value,) = compare(submitted, [{**submitted[0], "value": again}], submission.cells[0], QUANTITIES, None)
        assert value.telling == telling


def test_other_values_agree_in_none(seeds):
    submission = seeds("score", 1.0)
    submitted = submission.values(submission.cells[0])
    spread = Spread(submission, 1)
    for again in ([], [{**submitted[0], "step": 5}], submitted * 2):
        (value,) = compare(submitted, again, submission.cells[0], QUANTITIES, spread)
        assert value.agreement is Agreement.none
