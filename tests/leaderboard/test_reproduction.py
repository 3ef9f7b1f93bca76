"""Published values beside ours: the same tasks, the same kind of mean, and the agreement of single tasks."""

import math

import numpy as np
import pandas as pd
import pytest

from harness.leaderboard import boards, reproduction
from harness.leaderboard.tables import published as shown
from harness.published import PUBLISHED
from tests.leaderboard.builders import asr, build

SEEDS = (1, 2, 3)


def rirs(values, defense="mine"):
    """RIR of released models. values: by task, of one seed or of each of `SEEDS`."""
    return [
        asr(defense, None, task, seed, value, metric="rir", measured_by="conditioning", role=None, step=None)
        for task, of_seeds in values.items()
        for seed, value in zip(SEEDS, np.atleast_1d(of_seeds), strict=False)
    ]


def papers(*rows):
    """Published RIR of the grid g. rows: task (None: the mean over all tasks), value, kind of mean."""
    front = {"paper": "P", "table": "Table 1", "setting": "g", "defense": "mine", "metric": "rir"}
    made = [front | dict(zip(("task", "value", "mean"), row, strict=False)) for row in rows]
    frame = pd.DataFrame(made).reindex(columns=list(PUBLISHED))
    return frame.astype(dict.fromkeys(frame.columns.drop("value"), "string"))


def compare(values, *rows):
    (row,) = reproduction.compare(build(rirs(values), ranking=None), papers(*rows)).to_dict("records")
    return row


def test_the_tasks_that_both_have_are_averaged_as_the_board_averages():
    """The paper has b, c and d, and a mean over them; the grid has a, b and c."""
    values = {"a": [1000.0, 2000.0], "b": [1.0, 4.0], "c": [16.0, 25.0]}
    row = compare(values, ("b", 9.0), ("c", 4.0), ("d", 1e6), (None, 1e3, "arithmetic"))
    assert row["published"] == pytest.approx(6)
    assert row["ours"] == pytest.approx(math.sqrt(4 * 10))  # seeds: √(1·16) and √(4·25)
    assert (row["mean"], row["n_tasks"]) == ("geometric", 2)
    half = 12.7062 * math.log(10 / 4) / 2  # t(.975, 1) of two seeds
    assert math.log(row["high"] / row["ours"]) == pytest.approx(half, rel=1e-4)
    assert row["note"] == "P, Table 1; geometric mean of 2 tasks"


def test_of_a_task_that_failed_here_the_papers_value_is_left_out():
    row = compare({"a": 10.0, "b": None}, ("a", 20.0), ("b", 2000.0))
    assert (row["published"], row["ours"], row["n_tasks"]) == pytest.approx((20, 10, 1))
    assert row["note"] == "P, Table 1; task a"


def test_an_arithmetic_mean_is_compared_with_an_arithmetic_one():
    """Geometric means of the seeds are 10, 11 and 9, arithmetic ones about 50: so is the paper's."""
    values = {"a": [100.0, 110.0, 90.0], "b": [1.0, 1.1, 0.9]}
    row = compare(values, (None, 51.0, "arithmetic"))
    assert row["ours"] == pytest.approx(50.5)
    assert row["low"] < 51 < row["high"]
    made = boards.make(build(rirs(values), ranking=None))
    compared = reproduction.compare(made.records, papers((None, 51.0, "arithmetic")))
    assert not list(boards.flags._of_published(compared))
    assert [one.flag for one in boards.flags._of_published(compared.assign(published=10.0))] == ["unlike-published"]
    long = boards.long_form.board(made.records, compared)
    assert shown(long.iloc[0]) == "51 (ours 50.5)"
    unnamed = compare(values, (None, 51.0))
    assert (unnamed["mean"], unnamed["ours"]) == ("geometric", pytest.approx(9.97, abs=0.01))
    both = compare(values, (None, 51.0, "arithmetic"), (None, 10.0, "geometric"))
    assert (both["mean"], both["published"]) == ("geometric", 10)


def test_the_mean_over_tasks_that_are_not_ours_has_an_interval_for_other_tasks():
    values = {"a": [1.0, 2.0], "b": [10.0, 20.0], "c": [100.0, 200.0]}
    row = compare(values, ("group 1", 4.0), ("group 2", 9.0))
    assert row["published"] == pytest.approx(6)
    assert pd.isna(row["n_tasks"])
    assert row["note"].endswith("geometric mean of 2 tasks that are not ours")
    same = compare(values, (None, 6.0))
    assert row["ours"] == pytest.approx(same["ours"])
    assert row["high"] > 2 * same["high"]


def test_correlations_of_single_tasks_are_of_means_over_seeds_on_the_scale_of_averaging():
    theirs = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 30.0, "e": 5.0}
    ours = {task: [value * 2, value * 8] for task, value in theirs.items()}
    alike = compare(ours, *theirs.items())
    assert (alike["pearson"], alike["spearman"]) == pytest.approx((1, 1))
    ours["d"] = [0.5, 0.5]
    row = compare(ours, *theirs.items())
    logs = np.log([[4, 8, 12, 0.5, 20], list(theirs.values())])
    assert row["pearson"] == pytest.approx(np.corrcoef(logs)[0, 1])
    assert row["spearman"] == pytest.approx(1 - 6 * (1 + 1 + 1 + 16 + 1) / (5 * 24))
    few = compare({task: ours[task] for task in "abcd"}, *theirs.items())
    constant = compare(dict.fromkeys(ours, 3.0), *theirs.items())
    assert pd.isna(few["pearson"])
    assert pd.isna(constant["pearson"])


def test_the_board_says_how_well_single_tasks_agree(tmp_path):
    theirs = {task: float(value) for value, task in enumerate("abcde", 1)}
    path = tmp_path / "papers.csv"
    papers(*theirs.items()).to_csv(path, index=False)
    made = boards.make(build(rirs(theirs), ranking=None, suite={"published": path}))
    assert (
        "agreement with the paper on RIR of single tasks, on a log scale: correlation of our means over seeds with the "
        "published values (rank correlation): mine 1.00 (1.00; 5 tasks)" in made.markdown()
    )
    assert "reproduction.csv" in made.csv()
    assert made.reproduction["pearson"].tolist() == pytest.approx([1])
