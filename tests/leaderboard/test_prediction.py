"""Rank correlations of a metric of released models with the cost to break, their intervals, and the picture."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.leaderboard import boards, cost_to_break, prediction
from harness.leaderboard.stats import rank_correlation
from harness.ranking import ThreatModel
from tests.leaderboard.builders import ASR, asr, build

RANKING = ASR.model_copy(update={"predictors": [{"metric": "rir"}]})
DEFENSES = ["none", "ascent", "a", "b", "c", "d"]


def correlation(x, y, units=None):
    x, y = (pd.DataFrame(np.asarray(side, float).reshape(len(side), -1)) for side in (x, y))
    return rank_correlation(x, y, pd.Series(range(len(x)) if units is None else units))


def test_the_correlation_is_the_mean_over_tasks_and_the_interval_the_jackknifes():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 8, 3))
    x[2, 1] = np.nan

    def mean(rows):
        values = [stats.spearmanr(x[rows, task], y[rows, task], nan_policy="omit").statistic for task in range(3)]
        return np.mean(values)

    everything = np.arange(8)
    z, rest = np.arctanh(mean(everything)), np.arctanh([mean(np.delete(everything, i)) for i in everything])
    half = stats.t.ppf(0.975, 7) * math.sqrt(7 / 8 * ((rest - rest.mean()) ** 2).sum())
    assert correlation(x, y) == pytest.approx((mean(everything), np.tanh(z - half), np.tanh(z + half)))


def test_the_strengths_of_one_defense_are_left_out_together():
    """Three times the same rows are no more evidence than one."""
    x, y = np.random.default_rng(1).normal(size=(2, 7))
    once, thrice = correlation(x, y), correlation(np.repeat(x, 3), np.repeat(y, 3), np.repeat(range(7), 3))
    assert thrice == pytest.approx(once)
    assert np.diff(correlation(np.repeat(x, 3), np.repeat(y, 3))[1:]) < np.diff(once[1:])


def test_a_task_in_which_all_rows_are_equal_tells_nothing():
    x = np.array([[1, 1], [2, 3], [3, 2], [4, 5], [5, 4], [6, 6]])
    constant = np.ones(6)
    assert correlation(x, np.column_stack([constant, x[:, 0]])) == pytest.approx(correlation(x[:, 1], x[:, 0]))
    assert np.isnan(correlation(x, np.column_stack([constant, constant]))).all()
    r, low, high = correlation(x[:, 0], x[:, 0])
    assert r == 1
    assert np.isnan([low, high]).all()  # whichever is left out, it stays 1


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_the_interval_covers(rho):
    """Eight defenses on three tasks; most of what moves a defense moves it on all tasks alike."""

    def draw(rng, n):
        shared = rng.normal(size=(n, 1))
        other = rho * shared + math.sqrt(1 - rho**2) * rng.normal(size=(n, 1))
        return [0.9 * side + 0.44 * rng.normal(size=(n, 3)) for side in (shared, other)]

    rng = np.random.default_rng(2)
    x, y = draw(rng, 200_000)
    truth = np.mean([stats.spearmanr(x[:, task], y[:, task]).statistic for task in range(3)])
    intervals = np.array([correlation(*draw(rng, 8))[1:] for _ in range(300)])
    assert np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])) >= 0.93


def records(costs, metrics, tasks=("a", "b"), **fields):
    """Records in which the attack on each of `DEFENSES` succeeds after the given steps, with a metric by defense."""
    rows = []
    for defense, cost, metric in zip(DEFENSES, costs, metrics, strict=True):
        for task in tasks:
            values = {step: float(step >= cost) for step in (0, 5, 10, 20, 40, 80)}
            rows += [asr(defense, "lora", task, 1, value, step=step) for step, value in values.items()]
            rows += [asr(defense, None, task, 1, metric, metric="rir", measured_by="m", role=None, step=None)]
    return build(rows, ranking=RANKING, **fields)


def test_a_board_says_how_well_a_metric_predicts_the_cost_to_break(tmp_path):
    made = boards.make(records([5, 10, 20, 20, 40, 80], [1.0, 2.0, 8.0, 4.0, 16.0, 32.0]))
    (one,) = made.grids[0].predictions
    assert one.metric.loc["c"].tolist() == pytest.approx([math.log(16)] * 2)
    assert one.protection.loc["none"].tolist() == pytest.approx([0, 0])
    assert one.correlation[0] == pytest.approx(stats.spearmanr([1, 2, 3.5, 3.5, 5, 6], [1, 2, 4, 3, 5, 6]).statistic)
    (line,) = (note for note in made.grids[0].section.notes if note.startswith("prediction"))
    assert line.startswith(
        "prediction of the cost to break (all attackers): rank correlation, 6 defenses × 2 tasks, controls among them: "
        "RIR 0.99 ["
    )
    table = pd.DataFrame([one.row])
    assert made.csv()["prediction.csv"] == table.to_csv(index=False)
    assert (table.loc[0, "n_defenses"], table.loc[0, "n_tasks"], table.loc[0, "unit"]) == (6, 2, "steps")
    assert tmp_path / "g_prediction.png" in list(boards.draw(made, tmp_path))


def test_where_all_costs_are_equal_there_is_a_line_and_no_picture(tmp_path):
    made = boards.make(records([5] * 6, [1.0, 2.0, 8.0, 4.0, 16.0, 32.0]))
    assert "RIR none (all values of a side are equal)" in made.markdown()
    assert prediction.draw(made.grids[0].predictions, tmp_path) is None


def test_few_defenses_evidence_and_a_metric_that_is_not_measured_give_no_prediction():
    whole = records([5, 10, 20, 20, 40, 80], range(1, 7))
    evidence = {"weights": ThreatModel(attackers=["lora"], evidence=True)}
    for changed in ({"threat_models": evidence}, {"sweeps": {"x": ["c", "d"]}}, {"ranking": ASR}):
        grid = whole.suite.grids[0].model_copy(update=changed)
        assert prediction.read(whole, grid, cost_to_break.read(whole, grid)) == []
    (grid,) = whole.suite.grids
    assert len(prediction.read(whole, grid, cost_to_break.read(whole, grid))) == 1
