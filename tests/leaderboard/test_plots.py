"""Performance profiles and default curves as pictures."""

import pytest
from matplotlib.figure import Figure

from harness.leaderboard import plots
from harness.leaderboard.scores import read
from tests.leaderboard.builders import asr, build, cells


@pytest.fixture
def saved(monkeypatch):
    """The figures that are saved, by file name."""
    figures = {}
    save = plots.save

    def record(figure: Figure, stem):
        path = save(figure, stem)
        figures[path.name] = figure
        return path

    monkeypatch.setattr(plots, "save", record)
    return figures


def profile(values, out, seeds=(1, 2, 3)):
    return plots.profile(read(build(cells(values, seeds=seeds)))["g"], out)


def test_a_profile_names_every_defense(tmp_path, saved):
    path = profile({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.2 * seed}}, tmp_path)
    assert path == tmp_path / "g_profile.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    (axis,) = saved["g_profile.png"].axes
    assert axis.get_legend_handles_labels()[1] == ["none", "mine"]
    assert axis.get_xlabel() == "ASR under the strongest attacker"
    shares = {round(float(x), 6): y for x, y in axis.lines[1].get_xydata()}
    assert shares[0.4] == pytest.approx(2 / 3)  # seeds 1 and 2 do at least so well


@pytest.mark.parametrize(("value", "seeds"), [(1.0, (1, 2, 3)), (0.0, (1, 2))])
def test_no_profile_where_all_are_equal_or_cells_are_few(tmp_path, value, seeds):
    assert profile({"none": {"lora": 1.0}, "mine": {"lora": value}}, tmp_path, seeds) is None
    assert list(tmp_path.iterdir()) == []


def test_default_curves_show_the_ranking_value_against_steps(tmp_path, saved):
    rows = cells({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.1 * seed}})
    rows += [row | {"step": 30, "value": row["value"] / 2} for row in rows]
    rows += [row | {"metric": "msgr", "measured_by": "msgr"} for row in rows]
    records = build(rows)
    (grid,) = records.suite.grids
    assert plots.curves(records.frame, grid, tmp_path) == tmp_path / "g_steps.png"
    (axis,) = saved["g_steps.png"].axes  # the ranking value alone
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
    assert lines["mine"] == ([30, 60], pytest.approx([0.1, 0.2]))
    unranked = grid.model_copy(update={"ranking": None})
    plots.curves(records.frame, unranked, tmp_path)
    assert [axis.get_ylabel() for axis in saved["g_steps.png"].axes] == ["ASR harmful", "msgr harmful"]


def test_no_curves_of_what_is_measured_once(tmp_path):
    records = build([asr("none", "lora", "a", 1, 0.5)])
    assert plots.curves(records.frame, records.suite.grids[0], tmp_path) is None
