"""A track, an attacker, a defense and a metric of its own in one file, which no line of the harness knows."""

from pathlib import Path

import pandas as pd
import pytest

from harness import api, leaderboard
from harness.kit import checks
from harness.plan import make
from harness.registry import named
from harness.suite import load

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
FILE, SUITE = EXAMPLES / "two_layer.py", str(EXAMPLES / "two_layer.yaml")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("third")
    return api.run(SUITE, out=folder / "out", store=folder / "store", workers=2)


def test_a_suite_of_it_runs_on_workers_and_has_its_table(result):
    assert not result.failed
    table = result.tables["two_layer"].set_index("defense")
    assert list(table.columns) == ["grid", "attacker", "error", "kept_error", "sharpness harmful"]
    assert table.loc["none", "kept_error"] == "1"


def test_a_metric_is_averaged_as_it_says(result):
    of = result.records[(result.records["metric"] == "sharpness") & (result.records["defense"] == "none")]
    assert set(of["scale"]) == {"log"}
    assert len(of) == 4  # two tasks, two seeds
    (row,) = result.board[(result.board["metric"] == "sharpness") & (result.board["defense"] == "none")].to_dict(
        "records"
    )
    assert row["value"] == pytest.approx(of["value"].prod() ** (1 / 4))


def test_a_board_is_readable_without_its_track(result, tmp_path):
    """Read by a process that has no such track: the same figures, row by row."""
    before = pd.read_csv(result.out / "leaderboard.csv")
    made = leaderboard.render(result.out)
    pd.testing.assert_frame_equal(pd.read_csv(result.out / "leaderboard.csv"), before)
    ((table, _),) = made.sections[0].tables
    assert len(table) == len(made.board)
    text = (result.out / "leaderboard.md").read_text()
    assert "not installed here" in text
    assert "sharpness" in text
    leaderboard.render(result.out, (FILE,))
    assert "not installed here" not in (result.out / "leaderboard.md").read_text()


@pytest.mark.parametrize("entry", named(str(FILE)), ids=lambda entry: entry.name)
def test_plugins_of_a_third_track_conform(entry):
    for check in checks(entry.load(), files=[FILE]):
        check()


def test_a_metric_enters_the_plan_and_changes_no_other_key(tiny, tmp_path):
    """A probe metric in a plugin file: one more figure a released model, all other cells as they were."""
    (tmp_path / "norms.py").write_text(NORM)
    bare, more = (make(load(str(tiny), plugins=files)) for files in ([], [tmp_path / "norms.py"]))
    keys, all_keys = ({cell.job.key for cell in plan.cells} for plan in (bare, more))
    assert keys < all_keys
    assert len(all_keys - keys) == 1 + 2 + 2  # a figure a model: none draws nothing, two defenses have two seeds
    result = api.run(str(tiny), plugins=[tmp_path / "norms.py"], workers=1)
    of = result.records[result.records["metric"] == "weight_norm"]
    assert set(of["unit"]) == {"‖I‖"}
    undefended = of.set_index("defense").loc["none"]
    assert undefended["value"] == pytest.approx(1.0)
    assert result.tables["probe"].set_index("defense").loc["none", "weight_norm"] == "1"


NORM = '''
from harness import Metric
from harness.probe import ProbeMeasure


class WeightNorm(ProbeMeasure):
    """Size of the extractor (a control)."""

    deterministic = True
    about = Metric(name="weight_norm", title="norm", unit="‖I‖", description="norm of the weights over the identity's")

    def measure(self, model, targets):
        yield self.figure(float(model.weight.detach().norm()) / len(model.weight) ** 0.5)
'''
