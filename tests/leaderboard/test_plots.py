"""The pictures of a board: what they show, and that a paper can print them."""

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from harness.leaderboard import headline, long_form, looks, plots, prediction, protection, protection_plots
from harness.leaderboard.scores import QUANTITY, read
from harness.ranking import ThreatModel
from tests.leaderboard.builders import asr, build, cells, curves, retained

ASR_LABEL = "attack success rate\n(lower is better)"


@pytest.fixture
def saved(monkeypatch):
    """The figures that are saved, by file name."""
    figures = {}
    save = plots.save

    def record(figure: Figure, stem):
        path = save(figure, stem)
        figures[path.name] = figure
        return path

    for module in (plots, protection_plots, prediction):
        monkeypatch.setattr(module, "save", record)
    return figures


def profile(values, out, seeds=(1, 2, 3)):
    return plots.profile(read(build(cells(values, seeds=seeds)))["g"], out)


def test_a_profile_names_every_defense(tmp_path, saved):
    path = profile({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.2 * seed}}, tmp_path)
    assert path == tmp_path / "g_profile.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    (axis,) = saved["g_profile.png"].axes
    assert axis.get_legend_handles_labels()[1] == ["none", "mine"]
    assert axis.get_xlabel() == "attack success rate under the strongest attacker (lower is better)"
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
    (grid,), long = records.suite.grids, long_form.board(records)
    assert plots.curves(long, grid, tmp_path) == tmp_path / "g_steps.png"
    (axis,) = saved["g_steps.png"].axes  # the ranking value alone
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
    assert lines["mine"] == ([30, 60], pytest.approx([0.1, 0.2]))
    plots.curves(long, grid, tmp_path, ["msgr"])  # what a track names instead
    assert [axis.get_ylabel() for axis in saved["g_steps.png"].axes] == ["msgr"]
    unranked = grid.model_copy(update={"ranking": None})
    plots.curves(long, unranked, tmp_path)
    assert [axis.get_ylabel() for axis in saved["g_steps.png"].axes] == [ASR_LABEL, "msgr"]


def test_curves_of_many_attackers_are_in_several_lines_of_panels(tmp_path, saved):
    rows = cells({"none": {f"attacker_{place}": 0.1 * place for place in range(6)}})
    records = build([*rows, *(row | {"step": 30} for row in rows)])
    plots.curves(long_form.board(records), records.suite.grids[0], tmp_path)
    axes = saved["g_steps.png"].axes
    assert [axis.get_title() for axis in axes] == [f"attacker_{place}" for place in range(6)]
    assert [axis.get_xlabel() for axis in axes] == ["", "", *["steps"] * 4]
    assert [axis.get_ylabel() for axis in axes] == [ASR_LABEL, "", "", "", ASR_LABEL, ""]


def test_no_curves_of_what_is_measured_once(tmp_path):
    records = build([asr("none", "lora", "a", 1, 0.5)])
    assert plots.curves(long_form.board(records), records.suite.grids[0], tmp_path) is None


def drawn(rows, out, **fields):
    """The files of protection."""
    records = build(rows, **fields)
    grid = records.suite.grids[0]
    return [path.name for path in protection_plots.draw(protection.read(records, grid), grid, out)]


def test_costs_are_drawn_in_the_order_of_the_table_with_controls_in_grey(tmp_path, saved):
    rows = curves({"none": 20, "ascent": 30, "mine": 42, "held": 300, "harmful": 80})
    rows += retained({"none": 1, "ascent": 1, "mine": 1, "held": 1, "harmful": 0.5})
    assert drawn(rows, tmp_path) == ["g_protection.png", "g_survival.png"]
    (axis,) = saved["g_protection.png"].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["harmful", "ascent (control)", "mine", "held"]
    points = {line.get_ydata()[0]: line for line in axis.lines if line.get_marker() in looks.MARKERS}
    assert [points[y].get_xdata()[0] for y in range(4)] == pytest.approx([3.97, 1.5, 2.1, 4.97], abs=0.05)
    assert points[0].get_markerfacecolor() == "white"
    assert [points[y].get_color() == looks.CONTROL for y in range(4)] == [False, True, False, False]
    assert [arrow.xy[1] for arrow in axis.texts] == [3, 0][: len(axis.texts)]  # where attacks do not succeed


def test_ratios_of_a_single_seed_are_within_the_axis(tmp_path, saved):
    rows = curves({"none": 20, "mine": 42, "weak": 12}, tasks=("a",), seeds=(1,))
    assert "g_protection.png" in drawn(rows, tmp_path)
    (axis,) = saved["g_protection.png"].axes
    low, high = axis.get_xlim()
    points = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in looks.MARKERS]
    assert len(points) == 2
    assert low < min(points) < 1 < max(points) < high


def test_survival_curves_fall_where_cells_are_broken(tmp_path, saved):
    drawn(curves({"none": 20, "held": 300}), tmp_path)
    none, held = saved["g_survival.png"].axes[0].lines
    assert list(held.get_ydata()) == [1, 1]
    assert none.get_ydata()[-1] == 0
    assert 18 < none.get_xdata()[1] < 20 < none.get_xdata()[-2] < 22


def test_strength_curves_start_at_the_undefended_model(tmp_path, saved):
    rows = curves({"none": 20, "mine@lr=1": 30, "mine@lr=2": 60})
    rows += retained({"none": 1, "mine@lr=1": 0.995, "mine@lr=2": 0.9})
    assert "g_strength.png" in drawn(rows, tmp_path, sweeps={"mine": ["mine@lr=1", "mine@lr=2"]})
    (axis,) = saved["g_strength.png"].axes
    (line,) = [line for line in axis.lines if len(line.get_xdata()) == 3]
    assert list(line.get_xdata()) == pytest.approx([1, 0.995, 0.9], abs=1e-3)
    assert list(line.get_ydata()) == pytest.approx([1, 1.5, 3], abs=0.05)


def test_no_picture_of_protection_where_no_attack_succeeds(tmp_path):
    assert drawn(curves({"none": 200, "mine": 300}), tmp_path) == []


def test_a_defense_looks_the_same_everywhere(tmp_path, saved):
    """Controls are grey, the undefended model too; a sweep has one colour."""
    rows = curves({"none": 20, "ascent": 30, "mine@lr=1": 30, "mine@lr=2": 60, "other": 42})
    records = build(rows, sweeps={"mine": ["mine@lr=1", "mine@lr=2"]})
    grid = records.suite.grids[0]
    look = looks.of_grid(grid)
    assert (look["none"].colour, look["ascent"].colour) == (looks.UNDEFENDED, looks.CONTROL)
    assert look["mine@lr=1"].colour == look["mine@lr=2"].colour == look["mine"].colour == looks.COLOURS[0]
    assert look["other"].colour == looks.COLOURS[1]
    assert look["mine@lr=1"].marker != look["mine@lr=2"].marker
    plots.curves(long_form.board(records), grid, tmp_path)
    lines = saved["g_steps.png"].axes[0].lines
    assert {line.get_label(): line.get_color() for line in lines} == {row: look[row].colour for row in grid.defenses}


def test_many_defenses_differ_in_colour_or_marker():
    found = looks.of_names([f"d{place}" for place in range(63)]).values()
    assert len({(look.colour, look.marker) for look in found}) == 63
    assert all(look.symbol and look.line for look in found)


def test_every_picture_fits_a_page_with_texts_of_8_points_and_its_legend_within(tmp_path, saved):
    """With many defenses of long names and more threat models than go beside each other."""
    names = ["none", *(f"condition_number_of_kind_{place}_without_preconditioner" for place in range(11))]
    rows = curves({name: 20 + 7 * place for place, name in enumerate(names)})
    models = {f"threat model {place}": ThreatModel(attackers=["lora"]) for place in range(5)}
    records = build(rows, threat_models=models)
    (grid,) = records.suite.grids
    files = [*protection_plots.draw(protection.read(records, grid), grid, tmp_path)]
    files.append(plots.curves(long_form.board(records), grid, tmp_path))
    files.append(plots.profile(read(records)["g"], tmp_path))
    assert sorted(saved) == ["g_profile.png", "g_protection.png", "g_steps.png", "g_survival.png"]
    assert len(saved["g_protection.png"].axes) == 5
    for file in files:
        figure = saved[file.name]
        assert figure.get_figwidth() in (plots.COLUMN, plots.PAGE)
        assert Image.open(file).width == round(plots.DPI * figure.get_figwidth())
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert {text.get_fontsize() for text in texts} == {8}
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 < min(axis.bbox.y0 for axis in figure.axes)


def test_axes_are_in_words():
    """Coordinates are named where they tell a number from others of its metric."""
    places = [("asr", "harmful", None), ("retention", "benign", None), ("retention", "kept", "train"),
              ("retention", "kept", "heldout"), ("rir", None, "train"), ("rir", None, "heldout")]  # fmt: skip
    rows = [asr("none", None, "a", 1, 0.5, metric=metric, role=role, split=split) for metric, role, split in places]
    records = build([row | {"variant": "classifier"} for row in rows])
    (grid,), long = records.suite.grids, records.frame
    texts = [plots.in_words(grid, row, long) for row in long[QUANTITY].to_dict("records")]
    assert texts == [
        "attack success rate", "retention on the benign task", "retention of concepts in captions",
        "retention of held-out concepts", "RIR (training rows)", "RIR (held-out rows)",
    ]  # fmt: skip
    assert plots.direction(grid, {"metric": "asr", "role": "harmful"}, long) == "lower"
    both = pd.concat([long, long.assign(role="benign")])
    assert plots.direction(grid, {"metric": "asr", "role": "benign"}, both) == ""


def test_a_long_name_is_broken_where_it_can_be():
    assert plots.wrapped("condition_number_no_preconditioner", 20) == "condition_number_no_\npreconditioner"
    assert plots.wrapped("probes on scaled features", 20) == "probes on scaled\nfeatures"
    assert plots.wrapped("x" * 25, 10) == "\n".join(["x" * 10, "x" * 10, "x" * 5])


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_a_paper_gets_a_figure_of_its_width_with_texts_of_8_points(width):
    records = build(curves({"none": 20, "mine": 42}))
    grid = records.suite.grids[0]
    figure = protection_plots.intervals(headline.shown(protection.read(records, grid)), width)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    (axis,) = figure.axes
    texts = [axis.title, axis.xaxis.label, *axis.get_xticklabels(), *axis.get_yticklabels(), *figure.legends[0].texts]
    assert {text.get_fontsize() for text in texts} == {8}
