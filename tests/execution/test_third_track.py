"""A track with an attacker, a defense and metrics of its own in one file, which the harness does not know."""

from math import prod

import pandas as pd
import pytest

from harness import api
from harness.leaderboard import boards
from harness.submission import merge
from harness.submission.pack import RUN
from tests.runs import TWO_LAYER, plan, run


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("third")
    return api.run(TWO_LAYER, out=folder / "out", store=folder / "store", workers=2)


def test_its_suite_runs_on_workers_and_has_a_table(result):
    assert not result.failed
    assert set(result.tables["teachers"]["defense"]) == {"none", "shrinking"}


def test_a_metric_is_averaged_on_its_scale(result):
    def rows(frame):
        return frame[(frame["metric"] == "sharpness") & (frame["defense"] == "none")]

    values = rows(result.records)["value"]
    assert len(values) == 4  # two tasks, two seeds
    (row,) = rows(result.board).to_dict("records")
    assert row["value"] == pytest.approx(prod(values) ** (1 / 4))


def test_the_board_is_made_without_the_track(result, tmp_path):
    """By a process that does not know the track: the same values."""
    loaded = merge.load([result.out / RUN])
    boards.write(boards.make(loaded.records), tmp_path)
    ours, theirs = (pd.read_csv(folder / "leaderboard.csv") for folder in (result.out, tmp_path))
    pd.testing.assert_frame_equal(ours, theirs)
    assert "‖∇L‖ harmful" in (tmp_path / "leaderboard.md").read_text()


METRIC = '''"""How far an attack moves the weights."""

from harness import Metric, Quantity


class Distance(Metric):
    """Distance of the attacked model from the attacked undefended model (a control)."""

    track = "two_layer"
    deterministic = True
    measures = "attacked"
    quantities = (
        Quantity(name="distance", title="distance", unit="‖θ‖", description="norm of the difference of the weights"),
    )

    def measure(self, model, data):
        pairs = zip(model["attacked"].parameters(), model["undefended"].parameters())
        yield self.value(sum(float((a - b).detach().square().sum()) for a, b in pairs) ** 0.5)
'''


def test_a_metric_of_the_attacked_model_is_one_file_and_changes_no_other_key(tmp_path):
    assert len(METRIC.splitlines()) <= 30
    (tmp_path / "distance.py").write_text(METRIC)
    without, more = plan(), plan(plugins=[tmp_path / "distance.py"])
    assert set(without.jobs) < set(more.jobs)
    new = [more.jobs[key] for key in set(more.jobs) - set(without.jobs)]
    assert {job.plugin.name for job in new} == {"distance"}
    assert len(new) == 2 * 2  # tasks and defenses
    values = run(plugins=[tmp_path / "distance.py"]).values
    rows = values[values["metric"] == "distance"].set_index("defense")["value"]
    assert set(rows.loc["none"]) == {0.0}
    assert (rows.loc["shrinking"] > 0).all()
