"""When a figure that was measured again is the one that was told."""

import json
import math

import pytest
from scipy import stats

from harness.submission import read_write as submission
from harness.submission.agreement import Agreement, Spread, compare
from tests.helpers import FIXTURE, content_of, resealed

AVERAGING = {"probe": {"rir": {"unit": None, "scale": "log"}, "score": {"unit": None, "scale": "linear"},
                       "seconds": {"unit": "s", "scale": "linear"}}}  # fmt: skip


def seeds(metric, *values):
    """A submission with one figure of one row at seeds 1, 2, …"""
    content = content_of(FIXTURE)
    content["kinds"] = [[{"metric": metric, "value": None, "policy": "floor"}]]
    content["cells"] = []
    for seed, value in enumerate(values, 1):
        at = {"grid": "house_prices", "task": "house_prices", "defense": "random_init", "seed": seed}
        cell = {"at": at, "calls": {}, "key": f"{seed:064x}", "kind": 0, "values": [value], "files": {}}
        resealed(content, cell)
        content["cells"].append(cell)
    return submission.parse(json.loads(json.dumps(content)), "here")


def agreement(found, again, figures=1):
    """Of the first seed's figure."""
    cell = found.cells[0]
    told = found.figures(cell)
    spread = Spread(found, AVERAGING, figures)
    return [how for _, how in compare(told, [{**told[0], "value": again}], cell, "probe", AVERAGING, spread)]


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
def test_only_rounding_errors_agree(again, how):
    assert agreement(seeds("score", 0.5), again) == [how]


def test_zero_agrees_with_what_rounding_leaves_of_it():
    assert agreement(seeds("score", 0.0), 1e-12) == [Agreement.tolerance]
    assert agreement(seeds("score", 0.0), 1e-6) == [Agreement.none]
    assert agreement(seeds("score", None), None) == [Agreement.exact]
    assert agreement(seeds("score", None), 0.5) == [Agreement.none]


@pytest.mark.parametrize("figures", [1, 5])
def test_a_second_draw_lies_within_the_spread_of_the_other_seeds(figures):
    """Others 1, 2, 3 twice: s² = 4 / 5, five degrees of freedom; the first seed's own figure does not widen it."""
    reach = stats.t.ppf(1 - 0.025 / figures, 5) * math.sqrt(4 / 5) * math.sqrt(2)
    for told in (2.0, 1000.0):
        found = seeds("score", told, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0)
        assert agreement(found, told + 0.999 * reach, figures) == [Agreement.interval]
        assert agreement(found, told - 1.001 * reach, figures) == [Agreement.none]


def test_a_ratio_is_compared_as_its_logarithm():
    reach = math.exp(stats.t.ppf(0.975, 2) * math.log(10) * math.sqrt(2))
    found = seeds("rir", 5.0, 1.0, 10.0, 100.0)
    assert agreement(found, 5 * reach**0.999) == [Agreement.interval]
    assert agreement(found, 5 * reach**1.001) == [Agreement.none]
    assert agreement(found, -1.0) == [Agreement.none]


def test_two_other_seeds_have_no_spread():
    assert agreement(seeds("score", 1.0, 2.0), 1.1) == [Agreement.none]
    assert agreement(seeds("score", 1.0, 2.0, 9.0), 1.1) == [Agreement.none]
    assert agreement(seeds("score", 1.0, 2.0, 2.0, 2.0), 1.1) == [Agreement.none]
    assert agreement(seeds("score", 1.0, 2.0, 9.0, 2.0), 1.1) == [Agreement.interval]


def test_the_tolerance_is_capped():
    """Others 1, 2, 3: s = 1; t of two degrees of freedom would allow 45 of it."""
    found = seeds("score", 2.0, 1.0, 2.0, 3.0)
    assert agreement(found, 2 + 5.99 * math.sqrt(2), 1000) == [Agreement.interval]
    assert agreement(found, 2 + 6.01 * math.sqrt(2), 1000) == [Agreement.none]


def test_the_spread_is_pooled_over_tasks():
    """Two tasks of two seeds each: the one's other seed tells nothing alone, the other's two have s² = 2; with a third
    task s² = (2 + 8) / 2."""
    found = seeds("score", 5.0, 6.0, 1.0, 3.0, 1.0, 5.0)
    for place, cell in enumerate(found.cells):
        cell.at["task"] = "abc"[place // 2]
    assert agreement(found, 5 + 0.999 * stats.t.ppf(0.975, 2) * math.sqrt(5) * math.sqrt(2)) == [Agreement.interval]
    assert agreement(found, 5 + 1.001 * stats.t.ppf(0.975, 2) * math.sqrt(5) * math.sqrt(2)) == [Agreement.none]


def test_a_note_must_be_the_same_where_the_figure_is():
    found = seeds("score", 2.0, 1.0, 2.0, 3.0)
    told = found.figures(found.cells[0])
    spread = Spread(found, AVERAGING, 1)
    for again, how in ((2.0, Agreement.none), (2.5, Agreement.interval)):
        noted = [{**told[0], "value": again, "note": "lower bound"}]
        assert [of for _, of in compare(told, noted, found.cells[0], "probe", AVERAGING, spread)] == [how]


def test_costs_are_not_compared_and_it_is_the_harness_that_knows_them():
    assert agreement(seeds("seconds", 1.0), 99.0) == []
    assert agreement(seeds("score", 1.0), 99.0) == [Agreement.none]


def test_missing_or_different_metrics_do_not_agree():
    found = seeds("score", 1.0)
    told = found.figures(found.cells[0])
    spread = Spread(found, AVERAGING, 1)
    for again in ([], [{**told[0], "step": 5}], told * 2):
        ((_, how),) = compare(told, again, found.cells[0], "probe", AVERAGING, spread)
        assert how is Agreement.none
