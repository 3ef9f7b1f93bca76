"""Suite files: how they are read, selected from and refused."""

import shutil

import pytest
import yaml
from PIL import Image

from harness.diffusion.concepts import read
from harness.errors import UsageError
from harness.registry import installed
from harness.selection import Options, Selection
from harness.suite import Suite, load
from harness.suite_file import Tuning, find
from tests.helpers import MINE, change
from tests.runs import TWO_LAYER


def select(suite, **options) -> Suite:
    """A suite with options of `Selection`."""
    return load(str(suite), Selection.of(**options))


@pytest.mark.parametrize("name", [entry.name for entry in installed().all("suite")])
def test_shipped_suites_load(name):
    suite = load(name)
    assert suite.name == name
    assert all(grid.tasks and grid.defenses and grid.seeds for grid in suite.grids)


def test_rows_are_plugins_with_settings(tiny):
    (grid,) = load(str(tiny)).grids
    assert list(grid.defenses) == ["none", "random_init", "condition_number"]
    assert grid.defenses["condition_number"].params["epochs"] == 1
    assert grid.defenses["condition_number"].params["lr"] == 5e-3  # the preset's
    assert grid.attackers["adam"].params == {"lr": 0.1}
    assert grid.seeds == [1, 2]


def test_rows_seeds_and_settings_can_be_selected(tiny):
    (grid,) = select(
        tiny, defenses=["whitening"], attackers=["adam"], seeds=4, settings=["attackers.adam.lr=1e-3"]
    ).grids
    assert list(grid.defenses) == ["whitening"]  # no row, but a plugin of the track
    assert grid.attackers["adam"].params == {"lr": 1e-3}
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


def test_a_plugin_file_is_added_to_the_rows(tiny, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    (grid,) = select(tiny, plugins=[mine]).grids
    assert list(grid.attackers) == ["gradient_descent", "adam", "my_attack"]
    path = change(tiny, plugins=["mine.py"], grids__0__attackers={"my_attack": {"lr": 0.5}})
    (grid,) = load(path).grids
    assert grid.attackers["my_attack"].params == {"lr": 0.5}


GRID = {"name": "one", "track": "probe", "tasks": [{"data": "house_prices"}], "defenses": {"none": {}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "suite format 2; this harness reads up to 1: upgrade"),
        ({"grids": []}, "grids: List should have at least 1 item"),
        ({"grids__0__tasks": []}, "tasks: List should have at least 1 item"),
        ({"grids__0__defenses": {}}, "defenses"),
        ({"seeds": 0}, "seeds.0: Input should be greater than or equal to 1"),
        ({"sedes": 3}, "sedes: Extra inputs"),
        ({"grids__0__track": "prob"}, "unknown track 'prob'; did you mean probe"),
        ({"grids__0__defenses__nnoe": None}, "unknown defense 'nnoe'; did you mean none"),
        ({"grids__0__defenses__none": {"lr": 1}}, "defense 'none' has no field 'lr'"),
        ({"grids__0__attackers__adam": {"lr": -1}}, "attacker 'adam': lr: Input should be greater than 0"),
        ({"grids__0__protocol": {"steps": -5}}, "steps: Input should be greater than or equal to 1"),
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
        ({"grids": [GRID, GRID]}, "two grids have the same name"),
        ({"published": "absent.csv"}, "the published values .*absent.csv do not exist"),
        ({"plugins": ["absent.py"]}, "plugin file .*absent.py does not exist"),
    ],
)
def test_bad_suites_are_one_clear_line(tiny, changes, message):
    path = change(tiny, **changes)
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


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
        ({"settings": ["attackers.adam.lr=[1"]}, r"'\[1' is not valid YAML"),
        ({"seeds": 0}, "seeds: Input should be greater than or equal to 1"),
        ({"colours": 1}, "colours: Extra inputs are not permitted"),
    ],
)
def test_bad_calls_are_one_clear_line(tiny, asked, message):
    with pytest.raises(UsageError, match=message) as caught:
        select(**{"suite": str(tiny), **asked})
    assert "\n" not in str(caught.value)


def test_files_that_are_no_suites_are_refused(tmp_path):
    for content, message in (("{", "is no YAML"), ("- 1", "is no suite"), ("format: one", "format")):
        path = tmp_path / "s.yaml"
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            load(str(path))


@pytest.mark.parametrize("name", ["styles", "objects", "personal"])
def test_the_papers_suites_run_on_the_papers_base_too(name, tmp_path):
    """The pictures of subjects are not included: without them the suite is refused, by the name of their folder."""
    suites = shutil.copytree(find(name).parent, tmp_path / "suites")
    if name == "personal":
        with pytest.raises(UsageError, match=r"actionfigure_1: no pictures in .*/customconcept101/actionfigure_1; put"):
            select(name, base="v1-4")
        for place, subject in enumerate(read(suites / "concepts" / "stable_diffusion_subjects.yaml").concepts):
            folder = suites / "concepts" / "customconcept101" / subject
            folder.mkdir(parents=True)
            Image.new("L", (8, 8), place).save(folder / "0.png")
    small, paper = load(name), select(suites / f"{name}.yaml", base="v1-4")
    assert [grid.name for grid in small.grids][:2] == [grid.name for grid in paper.grids][:2]
    assert small.grids[0].tasks[0]["base"] == "small"
    assert paper.grids[0].tasks[0]["base"] == "CompVis/stable-diffusion-v1-4"
    assert paper.grids[0].defenses["mima"].params != small.grids[0].defenses["mima"].params
    assert paper.grids[0].protocol != small.grids[0].protocol


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
