"""Retention relative to the undefended model."""

import pytest

from harness.leaderboard.retention import relative, retention_rows
from tests.leaderboard.builders import asr, build


def retained(defense, task, seed, value, role):
    return asr(defense, None, task, seed, value, metric="retention", measured_by="retention", role=role, step=None)


def test_values_are_relative_to_the_undefended_model_of_the_same_cell():
    """Of role benign the undefended mean is .5 (.4 and .6), so a loss of .1 leaves .8; of role other it is −1, so the
    loss counts as it is. Undefended values without a seed stand for both seeds."""
    values = {("a", "benign"): (0.4, 0.3), ("b", "benign"): (0.6, 0.7), ("a", "other"): (-1, -3), ("b", "other"): (-1,)}
    rows = []
    for (task, role), (base, *own) in values.items():
        rows += [retained("none", task, None, base, role)]
        rows += [retained("mine", task, seed, value, role) for value in own for seed in (1, 2)]
    records = build(rows)
    grid = records.suite.grids[0]
    shares = relative(retention_rows(records, grid), grid)
    shares.columns = shares.columns.get_level_values("role")
    assert shares.loc["none"].stack().tolist() == [1] * 8
    for seed in (1, 2):
        assert shares.loc["mine", "a", seed]["benign"] == pytest.approx(0.8)
        assert shares.loc["mine", "b", seed]["benign"] == pytest.approx(1.2)
        assert shares.loc["mine", "a", seed]["other"] == pytest.approx(-1)
    assert shares.loc["mine", "b"]["other"].isna().all()


def test_without_an_undefended_row_nothing_is_relative():
    records = build([retained("mine", "a", 1, 0.5, "benign")])
    grid = records.suite.grids[0]
    assert relative(retention_rows(records, grid), grid).isna().all(axis=None)
    unranked = grid.model_copy(update={"ranking": None})
    assert relative(retention_rows(records, unranked), unranked).empty
