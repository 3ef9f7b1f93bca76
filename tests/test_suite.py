"""Suite files: how they are read, selected from and refused."""

import importlib
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import harness
from harness.diffusion.concepts import read
from harness.errors import UsageError
from harness.plugin import Attacker
from harness.selection import Options, Selection
from harness.suite import Suite
from harness.suite_file import Tuning, find
from harness.suite_reader import load
from tests.helpers import MINE, change
from tests.runs import TWO_LAYER


def select(suite, **options) -> Suite:
    """A suite with options of `Selection`."""
    return load(str(suite), Selection.of(**options))


def test_rows_are_plugins_with_settings(tiny):
    (grid,) = load(str(tiny)).grids
    assert list(grid.defenses) == ["none", "random_init", "condition_number"]
    assert grid.defenses["condition_number"].params["epochs"] == 1
    assert grid.defenses["condition_number"].params["lr"] == 5e-3  # the preset's
    assert grid.attackers["adam"].params["lr"] == 0.1
    assert grid.seeds == [1, 2]


def test_rows_seeds_and_settings_can_be_selected(tiny):
    (grid,) = select(
        tiny, defenses=["whitening"], attackers=["adam"], seeds=4, settings=["attackers.adam.lr=1e-3"]
    ).grids
    assert list(grid.defenses) == ["whitening"]  # no row, but a plugin of the track
    assert grid.attackers["adam"].params["lr"] == 1e-3
    assert grid.seeds == [1, 2, 3, 4]
    assert grid.changed == [
        "attackers.adam.lr=1e-3",
        "defenses.whitening. added",
        "0 of 3 defenses",
        "1 of 2 attackers",
        "seeds 1, 2, 3, 4 instead of 1, 2",
    ]
    assert grid.changes_of("attacker", "adam")
    assert grid.changes_of("defense", "whitening")
    assert not select(tiny).changed


def test_selecting_a_row_of_one_grid_adds_none_to_another():
    chosen = {grid.name: list(grid.attackers) for grid in select("relearning", attackers=["lora", "dreambooth"]).grids}
    assert chosen == {
        "styles": ["lora", "dreambooth"],
        "objects": ["lora", "dreambooth"],
        "personal": ["dreambooth"],
    }


def test_a_sweep_is_a_row_for_each_strength(tiny):
    path = change(tiny, grids__0__defenses={"none": None, "rank_one": {"sweep": {"gain": [1, 10.0]}, "contrast": 2}})
    (grid,) = load(path).grids
    assert list(grid.defenses) == ["none", "rank_one@gain=1", "rank_one@gain=10"]
    assert grid.sweeps == {"rank_one": ["rank_one@gain=1", "rank_one@gain=10"]}
    assert [grid.defenses[row].params["gain"] for row in grid.sweeps["rank_one"]] == [1, 10]
    (grid,) = select(path, defenses=["rank_one"], settings=["defenses.rank_one.contrast=3"]).grids
    assert [spec.params["contrast"] for spec in grid.defenses.values()] == [3, 3]
    assert grid.changes_of("defense", "rank_one@gain=10") == ["defenses.rank_one.contrast=3"]
    assert grid.changed == ["defenses.rank_one.contrast=3", "1 of 2 defenses"]
    with pytest.raises(UsageError, match="the suite sweeps this field"):
        select(path, settings=["defenses.rank_one.gain=3"])


def test_attackers_are_in_threat_models(tiny):
    def attackers(path, **options):
        return {name: model.attackers for name, model in select(path, **options).grids[0].threat_models.items()}

    assert attackers(tiny) == {"all attackers": ["gradient_descent", "adam"]}
    path = change(tiny, grids__0__threat_models={"tuned": {"attackers": ["adam"], "unit": "gradients", "budget": 100}})
    assert attackers(path) == {"tuned": ["adam"], "other attackers": ["gradient_descent"]}
    assert attackers(path, attackers=["adam"]) == {"tuned": ["adam"]}
    assert attackers(path, attackers=["lbfgs"]) == {"all attackers": ["lbfgs"]}
    assert load(path).grids[0].threat_models["tuned"].budget == 100


def test_a_plugin_file_is_added_to_the_rows(tiny, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    (grid,) = select(tiny, plugins=[mine]).grids
    assert list(grid.attackers) == ["gradient_descent", "adam", "my_attack"]
    path = change(tiny, plugins=["mine.py"], grids__0__attackers={"my_attack": {"lr": 0.5}})
    (grid,) = load(path).grids
    assert grid.attackers["my_attack"].params["lr"] == 0.5


GRID = {"name": "one", "track": "probe", "tasks": [{"data": "house_prices"}], "defenses": {"none": {}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "suite format 2; this harness reads up to 1: upgrade"),
        ({"grids": []}, "grids: List should have at least 1 item"),
        ({"grids__0__tasks": []}, "tasks: List should have at least 1 item"),
        ({"grids__0__defenses": {}}, "defenses"),
        ({"seeds": 0}, "seeds: must be a list of seeds, or their number"),
        ({"sedes": 3}, "unknown key 'sedes'; did you mean seeds"),
        ({"grids__0__track": "prob"}, "unknown track 'prob'; did you mean probe"),
        ({"grids__0__defenses__nnoe": None}, "unknown defense 'nnoe'; did you mean none"),
        ({"grids__0__defenses__none": {"lr": 1}}, "defense 'none' has no field 'lr'"),
        ({"grids__0__attackers__adam": {"lr": -1}}, "attacker 'adam': lr: must be greater than 0"),
        ({"grids__0__protocol": {"steps": -5}}, "steps: must be greater than or equal to 1"),
        ({"grids__0__protocol": {"steps": 5, "measure_at": [10]}}, "': measure_at must lie within 0 … steps = 5$"),
        ({"grids__0__protocol": {"steps": 5, "measure_at": [3, 1]}}, "measure_at must be ascending"),
        ({"grids__0__tasks": [{"data": "houses"}]}, "house_prices"),
        ({"grids__0__tasks": [{"data": "mnist5k", "framing": "single-class", "pairs": []}]}, "it has no tasks"),
        (
            {"grids__0__tasks": [{"data": "mnist5k", "framing": "single-class", "pairs": [[3, 8], [3, 8]]}]},
            "grid '.*': 2 tasks have the label 'P3-H8'",
        ),
        ({"grids__0__metrics": {"cost": {"plugin": "conditioning"}}}, "no metric can have the label 'cost'"),
        ({"grids__0__metrics": {"pictures": {"plugin": "conditioning"}}}, "no metric can have the label 'pictures'"),
        ({"grids__0__attackers": {"mean": {"plugin": "adam"}}}, "no attacker can have the label 'mean'"),
        ({"grids__0__threat_models": {"all": {"attackers": ["adma"]}}}, "no attacker 'adma'; did you mean adam"),
        ({"grids__0__threat_models": {"all": {"attackers": ["adam"], "outcome": "x"}}}, "'probe' has no outcome 'x'"),
        (
            {"grids__0__threat_models": {"other attackers": {"attackers": ["adam"]}}},
            "can have the name 'other attackers'",
        ),
        ({"grids__0__threat_models": {"all": {"attackers": []}}}, "attackers: List should have at least 1 item"),
        ({"grids__0__defenses": {"rank_one": {"sweep": {"gain": [1, 1]}}}}, "the sweep has a value of gain twice"),
        ({"grids__0__defenses": {"rank_one": {"sweep": {"gian": [1, 2]}}}}, "'rank_one' has no field 'gian'"),
        ({"grids__0__defenses": {"rank_one": {"sweep": {"gain": [1], "contrast": [1]}}}}, "sweep"),
        ({"grids__0__attackers": {"adam": {"sweep": {"lr": [0.1, 0.2]}}}}, "only a defense can have a sweep"),
        ({"grids": [GRID, GRID]}, "two grids have one name, one and one"),
        ({"published": "absent.csv"}, "the published values .*absent.csv do not exist"),
        ({"plugins": ["absent.py"]}, "plugin file .*absent.py does not exist"),
    ],
)
def test_bad_suites_are_one_clear_line(tiny, changes, message):
    path = change(tiny, **changes)
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


PAIR = {"data": "mnist5k", "pairs": [[3, 8]]}
INF = float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": True}, r"seeds: must be a list of seeds, or their number, from 1 to 1000 \(got True, line 5\)"),
        ({"seeds": "yes"}, "seeds: must be a list of seeds"),
        ({"seeds": 2**53}, "seeds: must be a list of seeds, or their number"),
        ({"seeds": [2**63]}, "seeds.0: must be less than or equal to 9007199254740992"),
        ({"seeds": [True]}, "seeds.0: must be an integer"),
        ({"version": True}, r"version: must be an integer \(got True, line 3\)"),
        ({"version": "3"}, "version: must be an integer"),
        ({"format": "1"}, "format: must be an integer"),
        ({"format": 1.0}, "format: must be an integer"),
        ({"format": True}, "format: must be an integer"),
        ({"format": -5}, "format: must be greater than or equal to 1"),
        (
            {"grids__0__protocol": {"steps": True}},
            r"tiny.yaml, line \d+, grid 'house_prices': steps: must be an integer",
        ),
        ({"grids__0__protocol": {"success": INF}}, "success: must be a finite number"),
        ({"grids__0__attackers__adam": {"lr": True}}, "tiny.yaml, line 25, .*attacker 'adam': lr: must be a number"),
        ({"grids__0__attackers__adam": {"lr": "1:30"}}, "lr: must be a number"),
        ({"grids__0__attackers__adam": False}, r"grids.0.attackers.adam: must be a mapping \(got False"),
        ({"grids__0__attackers__adam": 0}, "grids.0.attackers.adam: must be a mapping"),
        ({"grids__0__attackers__adam": []}, "grids.0.attackers.adam: must be a mapping"),
        ({"grids__0__defenses": "none"}, "grids.0.defenses: must be a mapping"),
        ({"grids__0__tasks": "house_prices"}, "grids.0.tasks: must be a list"),
        (
            {"grids__0__tasks": [PAIR | {"pairs": [[True, 8]], "framing": "one-vs-rest"}]},
            "pairs.0.0: must be an integer",
        ),
        ({"grids__0__trak": "probe"}, "grids.0: unknown key 'trak'; did you mean track"),
        ({"grids__0__name": "a/b"}, "grids.0.name: must be a text of letters"),
        ({"grids__0__name": "x" * 101}, "longer than 100 bytes"),
        ({"grids__0__name": "é" * 51}, "longer than 100 bytes"),
        ({"grids__0__name": "Con"}, "some systems take no file called 'Con'"),
        ({"grids__0__name": "g."}, "some systems take no file called 'g.'"),
        ({"bases": {"a/b": {}}}, "bases.a/b: must be a text of letters"),
        ({"bases": {"b" * 99: {}}}, "'tiny@b+' is longer than 100 bytes"),
        ({"grids": [GRID, GRID | {"name": "ONE"}]}, "two grids have one name, one and ONE"),
        ({"grids__0__attackers__two\nlines": None}, r"attackers.'two\\nlines': must be a text"),
        ({"grids__0__attackers__adam ": {"plugin": "adam"}}, "not end with a space"),
        (
            {"grids__0__attackers__ADAM": {"plugin": "adam"}},
            "two attackers have labels that look alike, 'adam' and 'ADAM'",
        ),
        (
            {"grids__0__attackers__a/b": {"plugin": "adam"}, "grids__0__attackers__a:b": {"plugin": "adam"}},
            "· a/b and .* · a:b would have one name",
        ),
        ({"grids__0__attackers__" + "x" * 200: {"plugin": "adam"}}, "are too long for the name of a file"),
        ({"grids__0__metrics": {"again": {"plugin": "optimum"}, "optimum": {}}}, "2 metrics are 'optimum'"),
        (
            {"grids__0__tasks": [PAIR | {"framing": framing} for framing in ("single-class", "one-vs-rest")]},
            "2 tasks have the label 'P3-H8'; put them into different grids",
        ),
    ],
)
def test_one_name_is_one_thing_and_one_value_one_kind(tiny, changes, message):
    path = change(tiny, **changes)
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "adam: {lr: 0.1}",
            "adam: {lr: 0.1}\n      adam: {lr: 0.2}",
            "line 19: the key 'adam' is given twice, first in line 18",
        ),
        ("none:", "none:\n      none: {plugin: whitening}", "the key 'none' is given twice"),
        ("{steps: 5,", "{steps: 50, steps: 5,", "the key 'steps' is given twice"),
        ("seeds: 2", "seeds: 2\nseeds: 1", "line 7: the key 'seeds' is given twice, first in line 6"),
        ("seeds: 2", "seeds: 010", r"seeds: .* \(got '010', line 6\)"),
        ("{steps: 5,", "{steps: 010,", r"line 11, .*steps: must be an integer \(got '010'\)"),
        ("{lr: 0.1}", "{lr: yes}", r"line 18, .*lr: must be a number \(got 'yes'\)"),
        ("{lr: 0.1}", "{lr: 1:30}", r"lr: must be a number \(got '1:30'\)"),
    ],
)
def test_what_is_written_twice_or_is_no_number_is_refused_with_its_line(tiny, old, new, message):
    tiny.write_text(tiny.read_text().replace(old, new))
    with pytest.raises(UsageError, match=message):
        load(str(tiny))


TOKEN = '''
from typing import Literal

from harness.probe import ProbeAttacker

class Token(ProbeAttacker):
    """Has fields of text (test)."""

    token: str = ""
    word: str | None = "a"
    digit: Literal["1", "no"] = "no"
    steps: int = 1
'''


@pytest.mark.parametrize("text", ["007", "no", "@sks", "[v", "a # b", "{a: b", "", "'x'", "null", "a: b"])
def test_a_setting_of_text_is_the_text_itself(tiny, tmp_path, text):
    (tmp_path / "token.py").write_text(TOKEN)
    settings = [f"attackers.token.token={text}", "attackers.token.word=null", "attackers.token.digit=1"]
    (grid,) = select(tiny, plugins=tmp_path / "token.py", settings=settings).grids
    assert grid.attackers["token"].params.items() >= {"token": text, "word": None, "digit": "1", "steps": 1}.items()


@pytest.mark.parametrize(("text", "number"), [("0.1", 0.1), ("1e-3", 1e-3), ("-.5", -0.5), ("2", 2), ("1.", 1)])
def test_a_decimal_number_in_quotes_is_a_number(text, number):
    class Fields(Attacker):
        real: float
        or_none: float | None

    assert Fields(real=text, or_none=text) == Fields(real=number, or_none=number)
    for other in ("010", "1_0", "inf", "nan", "0x1", "1:30", "yes", " 1", "١"):
        with pytest.raises(ValueError, match="valid number"):
            Fields(real=other, or_none=None)


def test_a_key_of_text_is_an_integer_where_a_field_wants_one():
    class Fields(Attacker):
        by_step: dict[int, float]

    assert Fields(by_step={"0": 1.0, "5": 2}) == Fields(by_step={0: 1.0, 5: 2.0})
    for key in ("010", "1_0", "1.0", True):
        with pytest.raises(ValueError, match="valid integer"):
            Fields(by_step={key: 1.0})


@pytest.mark.parametrize(("text", "error"), [("yes", "must be an integer"), ("010", "must be an"), ("[1", "no YAML")])
def test_a_setting_of_a_number_is_a_number(tiny, tmp_path, text, error):
    (tmp_path / "token.py").write_text(TOKEN)
    with pytest.raises(UsageError, match=error):
        select(tiny, plugins=[tmp_path / "token.py"], settings=f"attackers.token.steps={text}")


def test_calls_from_python_take_paths_single_names_and_integers_of_numpy(tiny):
    suite = load(tiny, Selection.of(defenses="none", attackers=np.array(["adam"]), seeds=np.int64(2)))
    assert list(suite.grids[0].defenses) == ["none"]
    assert suite.grids[0].seeds == [1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"seeds": "2"}, r"seeds: must be an integer \(got '2'\)"),
        ({"seeds": True}, "seeds: must be an integer"),
        ({"seeds": -3}, "seeds: must be greater than or equal to 1"),
        ({"seeds": 1001}, "seeds: must be less than or equal to 1000"),
        ({"defenses": None}, "defenses: must be a list"),
        ({"workers": -1}, "workers: must be greater than or equal to 1"),
        ({"workers": 2.0}, "workers: must be an integer"),
        ({"timeout": 0}, "timeout: must be greater than 0"),
        ({"suite": 3}, "a suite is a name or a path, not 3"),
        ({"suite": Path("absent")}, "suite file absent does not exist"),
    ],
)
def test_wrong_calls_from_python_are_refused(tiny, call, message):
    with pytest.raises(UsageError, match=message):
        harness.run(**{"suite": tiny, **call})


def test_a_release_of_two_models_of_one_task_is_refused(tiny, tmp_path):
    first, again = (yaml.safe_load(tiny.read_text())["grids"][0] for _ in range(2))
    change(tiny, grids=[first, again | {"name": "again"}])
    harness.release(tiny, "condition_number", tmp_path / "one")  # of both grids
    assert (tmp_path / "one" / "model.safetensors").is_file()
    change(tiny, grids__1__defenses__condition_number={"preset": "house_prices", "epochs": 2})
    with pytest.raises(UsageError, match="the grids house_prices, again have different models of task 'house_prices'"):
        harness.release(tiny, "condition_number", "out")


CLASH = """
import harness

class Clash(harness.Metric):
    \"\"\"Another scale of RIR (nobody, 2026).\"\"\"
    track = "probe"
    quantities = (harness.Quantity(name="rir", title="RIR", scale="linear", description="another"),)
"""


def test_two_metrics_that_define_a_quantity_differently_are_refused(tiny, tmp_path):
    (tmp_path / "clash.py").write_text(CLASH)
    with pytest.raises(UsageError, match="two metrics define 'rir' with different units, directions or scales"):
        select(str(tiny), plugins=[tmp_path / "clash.py"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"suite": "digts"}, "unknown suite 'digts'; did you mean digits"),
        ({"suite": "absent.yaml"}, "suite file absent.yaml does not exist"),
        ({"defenses": ["whitning"]}, "runs no defense 'whitning'; did you mean whitening"),
        ({"attackers": ["adams"]}, "runs no attacker 'adams'; did you mean adam"),
        ({"settings": ["attackers.adm.lr=1"]}, "runs no attacker 'adm'; did you mean adam"),
        ({"attackers": ["lora"]}, "runs no attacker 'lora'; it is of track 'diffusion', which no grid"),
        ({"defenses": ["none"], "settings": ["defenses.random_init.x=1"]}, "the selection leaves this row out"),
        ({"settings": ["defenses.rank_one.gain=1"]}, "runs no defense 'rank_one'; no grid to run has it as a row"),
        ({"settings": ["attackers.adam.rl=1"]}, "no field 'rl'; did you mean lr"),
        ({"settings": ["adam.lr=1"]}, "write defenses.LABEL.FIELD=VALUE"),
        ({"settings": ["attackers.adam.lr"]}, "write defenses.LABEL.FIELD=VALUE"),
        ({"settings": ["attackers.adam.lr=[1"]}, "--set attackers.adam.lr, line 1: no YAML: while parsing"),
        ({"seeds": 0}, "seeds: must be greater than or equal to 1"),
        ({"colours": 1}, "unknown key 'colours'; did you mean plugins"),
    ],
)
def test_bad_calls_are_one_clear_line(tiny, asked, message):
    with pytest.raises(UsageError, match=message) as caught:
        select(**{"suite": str(tiny), **asked})
    assert "\n" not in str(caught.value)


def test_a_class_of_a_file_is_a_plugin_and_one_of_a_notebook_is_refused(tiny, tmp_path, monkeypatch):
    (tmp_path / "of_a_file.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    cls = importlib.import_module("of_a_file").MyAttack
    for plugins in (cls, [cls], [tmp_path / "of_a_file.py"]):
        assert "my_attack" in load(tiny, Selection.of(plugins=plugins)).grids[0].attackers
    monkeypatch.setattr(sys.modules["of_a_file"], "__file__", None)
    with pytest.raises(UsageError, match=r"MyAttack is in no file.*%%writefile"):
        Selection.of(plugins=[cls])


def test_a_script_that_runs_whenever_it_is_imported_is_refused(tiny, tmp_path):
    script = tmp_path / "script.py"
    for guard, refused in (("if True:", True), ('if __name__ == "__main__":', False)):
        script.write_text(f"{MINE}\n\nimport harness\n{guard}\n    harness.run({str(tiny)!r}, plugins=[MyAttack])\n")
        message = r"script\.py calls harness\.run whenever it is imported.* put the call below"
        with pytest.raises(UsageError, match=message) if refused else nullcontext():
            assert "my_attack" in load(tiny, Selection.of(plugins=[script])).grids[0].attackers


def test_settings_may_be_a_mapping(tiny):
    settings = {"attackers.adam.lr": 1e-3, "defenses.condition_number.preconditioner": "none"}
    texts = ["attackers.adam.lr=0.001", "defenses.condition_number.preconditioner=none"]
    assert select(tiny, settings=settings) == select(tiny, settings=texts)


def test_files_that_are_no_suites_are_refused(tmp_path):
    for content, message in (("{", "line 1: no YAML"), ("- 1", "is no suite"), ("format: one", "format")):
        path = tmp_path / "s.yaml"
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            load(str(path))


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("styles", "objects")), "personal"]
)
def test_the_papers_suites_run_on_the_papers_base_too(name, tmp_path):
    """The pictures of subjects are not included: without them the suite is refused, by the name of their folder."""
    suites = shutil.copytree(find(name).parent, tmp_path / "suites")
    if name == "personal":
        with pytest.raises(UsageError, match=r"actionfigure_1: no pictures in .*/customconcept101/actionfigure_1; put"):
            select(name, base="v1-4")
        for place, subject in enumerate(read(suites / "concepts" / "stable_diffusion_subjects.yaml").concepts):
            folder = suites / "concepts" / "customconcept101" / subject
            folder.mkdir(parents=True)
            for picture in (0, 1):
                Image.new("L", (8, 8), 2 * place + picture).save(folder / f"{picture}.png")
    small, paper = load(name), select(suites / f"{name}.yaml", base="v1-4")
    assert [grid.name for grid in small.grids][:2] == [grid.name for grid in paper.grids][:2]
    assert small.grids[0].tasks[0]["base"] == "small"
    assert paper.grids[0].tasks[0]["base"] == "CompVis/stable-diffusion-v1-4"
    assert paper.grids[0].defenses["mima"].params not in [spec.params for spec in small.grids[0].defenses.values()]
    assert not paper.grids[0].sweeps  # of step sizes for the small base
    assert paper.grids[0].protocol != small.grids[0].protocol
    further = set(paper.grids[0].attackers) - set(small.grids[0].attackers)
    assert further == ({"textual_inversion"} if name == "personal" else set())


def test_a_title_may_be_a_folded_block(tiny):
    text = Path(change(tiny, title="TITLE")).read_text()
    tiny.write_text(text.replace("title: TITLE", "title: >\n  Two lines\n  of a file"))
    assert load(tiny).title == "Two lines of a file"


def test_seeds_may_be_listed(tiny):
    (grid,) = load(change(tiny, seeds=[101, 7])).grids
    assert grid.seeds == [101, 7]
    with pytest.raises(UsageError, match="seeds"):
        load(change(tiny, seeds=[0]))


def test_grids_can_be_selected(tiny):
    content = yaml.safe_load(tiny.read_text())
    content["grids"].append({**content["grids"][0], "name": "houses_again"})
    tiny.write_text(yaml.safe_dump(content))
    assert [grid.name for grid in load(str(tiny)).grids] == ["house_prices", "houses_again"]
    assert [grid.name for grid in select(tiny, grids=["houses_again"]).grids] == ["houses_again"]
    with pytest.raises(UsageError, match="suite 'tiny' has no grid 'houses'; did you mean house"):
        select(tiny, grids=["houses"])


@pytest.mark.parametrize(
    ("task", "seed", "covered"),
    [("a", 101, True), ("a", 1, False), ("b", 101, False), ("a", None, True), ("b", None, False)],
)
def test_tuning_covers_its_tasks_and_seeds(task, seed, covered):
    assert Tuning(seeds=[101], tasks=["a"]).covers(task, seed) == covered


def test_tuning_without_tasks_covers_all_tasks_of_its_seeds():
    assert Tuning(seeds=[101]).covers("a", 101)
    assert not Tuning(seeds=[101]).covers("a", None)
    assert not Tuning(seeds=[]).covers("a", 101)


def test_a_suite_dumps_and_reads_itself():
    suite = load(TWO_LAYER)
    again = Suite.model_validate_json(suite.model_dump_json())
    assert again.model_dump() == suite.model_dump()
    (grid,) = again.grids
    assert [grid.control(label) for label in grid.defenses] == ["undefended", None]
    assert grid.defenses["shrinking"].call == "Shrinking(share=0.05)"


def test_options_in_python_are_the_fields_of_a_selection():
    assert set(Options.__annotations__) == set(Selection.model_fields)
