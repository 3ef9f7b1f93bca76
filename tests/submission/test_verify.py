"""Verification: honest submissions hold, and each way to cheat is found."""

import copy
import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.execution import executors
from harness.plan import make
from harness.plugin import PluginSpec
from harness.probe import Extractor
from harness.registry import Entry, installed
from harness.submission import pack, read_write, verify
from harness.submission import tier as tiers
from harness.submission.anonymise import placed, portable
from harness.submission.local_suite import localise
from harness.submission.schema import InvalidSubmission
from harness.suite_reader import load
from tests.helpers import immunebench
from tests.submission.forge import (
    ATTACK,
    BAD,
    ROOT,
    TWO_LAYER,
    content_of,
    find,
    reseal,
    submitted,
    suite_file,
    write_content,
)


def check(path, cells=None, plugins=(TWO_LAYER,), **options):
    """Verify with this machine's plugin file."""
    return verify.verify(path, cells, plugins=plugins, executor=executors.Serial, **options)


@pytest.fixture
def forged(content, tmp_path):
    """`forged(change)`: the file of the submission as `change` makes its content."""

    def forge(change):
        change(content)
        return write_content(content, tmp_path / "forged.json.gz")

    return forge


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(**changes)`: the small suite, with changes, installed under its name."""

    def install(**changes):
        folder = tmp_path / "installed"
        folder.mkdir()
        file = str(suite_file(folder, **changes))
        monkeypatch.setitem(installed()._entries["suite"], "small", Entry("suite", "small", "", "", file, file=file))

    return install


@pytest.fixture
def small_installed(install):
    install()


WHERE = "teachers · 1 · shrinking · 2 · sharpness"


def test_an_honest_one_is_reproduced(honest, install):
    install()
    report = check(honest)
    assert report.problems == []
    verification = report.verification
    cells = 2 * 3 * (2 + 1 + 1 + 1)  # sharpness at two seeds, cost, attacked error, attack's cost
    assert (verification.tier, verification.cells, verification.rerun) == ("reproduced", cells, cells)
    content = content_of(honest)
    metered = sum(2 for cell in content["cells"] if cell["coordinates"]["measured_by"] == "cost")
    assert verification.exact == sum(len(cell["values"]) for cell in content["cells"]) - metered
    assert (verification.tolerance, verification.interval) == (0, 0)
    assert verification.unchecked == []
    assert verification.submission == hashlib.sha256(honest.read_bytes()).hexdigest()


def test_one_of_installed_plugins_alone_needs_no_plugin_file(tiny, tmp_path):
    """The probe track, where each row of an attacker is measured for two roles."""
    path = submitted(tiny, tmp_path, attackers=["adam"])
    assert read_write.read(path).sources == []
    report = check(path, plugins=())
    assert report.problems == []
    assert report.verification.rerun == report.verification.cells


def test_a_suite_that_is_not_installed_is_never_reproduced(honest):
    """All its cells agree, but nobody else knows what they are."""
    verification = check(honest).verification
    assert verification.rerun == verification.cells
    assert verification.tier == "spot-checked"
    assert verification.summary.endswith("its suite was not installed")


def test_cells_are_drawn_by_the_seed(honest):
    first, same, other = (check(honest, 3, seed=seed).lines for seed in (7, 7, 8))
    assert first == same
    assert any("run again: 3 of 30 cells, drawn by --seed 7" in line for line in first)
    assert [line for line in first if line.startswith("  ")] != [line for line in other if line.startswith("  ")]
    assert check(honest, 3).verification.tier == "spot-checked"
    unseeded = {check(honest, 0).verification.seed for _ in range(3)}
    assert len(unseeded) == 3


def test_the_author_cannot_choose_the_cells_by_the_seed(honest, content, tmp_path):
    """The draw has the file's digest too: a file with another title has other cells under the same seed."""
    content["suite"]["title"] = "another title"
    other = check(write_content(content, tmp_path / "other.json.gz"), 3, seed=7).lines
    first = check(honest, 3, seed=7).lines
    assert [line for line in first if line.startswith("  ")] != [line for line in other if line.startswith("  ")]


def better(content, factor=1.01):
    bad = find(content, **BAD)
    bad["values"][0] *= factor
    reseal(content, bad)


def test_a_forged_value_is_found_by_running_its_cell_again(forged):
    """Its digest is written anew: only a rerun can tell, and one that draws the cell does."""
    path = forged(better)
    report = check(path)
    assert report.verification is None
    (problem,) = report.problems
    assert problem.startswith(f"{WHERE}: 1 of 1 values do not agree, e.g. sharpness harmful")
    assert check(path, 0).verification.tier == "schema-valid"


@pytest.mark.slow
@pytest.mark.parametrize("versions", ["the same", "others"])
def test_a_value_forged_among_many_seeds_is_found(tmp_path, versions):
    """Under the same versions no value may differ. A file that says that it is of others gains nothing by it while most
    of its values agree exactly; where they do not, the spread lets a redrawn value pass, not one that is ten times as
    good."""
    path = submitted(suite_file(tmp_path, seeds=4), tmp_path, defenses=["none", "shrinking"])
    content = content_of(path)
    if versions == "others":
        content["provenance"]["packages"]["torch"] = "1.0"
    values = [find(content, **{**BAD, "seed": seed})["values"][0] for seed in (1, 2, 3, 4)]
    bad = find(content, **BAD)
    bad["values"][0] += 0.9 * np.std(values)
    reseal(content, bad)
    report = check(write_content(content, path))
    problem = {"the same": "values do not agree", "others": "1 values agree only within the spread over seeds, though"}
    assert problem[versions] in report.problems[0]
    assert any(("torch: 1.0 there" in line) == (versions == "others") for line in report.lines if "versions" in line)
    for cell in content["cells"]:
        if cell["coordinates"]["measured_by"] == "sharpness":
            cell["values"][0] *= 1 + 1e-5
            reseal(content, cell)
    assert bool(check(write_content(content, path)).problems) == (versions == "the same")
    better(content, 10)
    write_content(content, path)
    assert any("values do not agree, e.g. sharpness" in problem for problem in check(path).problems)


@pytest.mark.parametrize("cost", [-1e300, -1.0, 1e9])
def test_a_cost_that_no_job_can_have_is_refused(forged, cost):
    def change(content):
        cell = next(cell for cell in content["cells"] if cell["coordinates"]["measured_by"] == "cost")
        place = [value["metric"] for value in content["kinds"][cell["kind"]]].index("seconds")
        cell["values"][place] = cost
        reseal(content, cell)

    with pytest.raises(InvalidSubmission, match="which no job can have taken"):
        check(forged(change), 0)


def dropped(content):
    content["cells"].remove(find(content, **BAD))


def dropped_with_its_row(content):
    content["cells"] = [cell for cell in content["cells"] if cell["coordinates"]["defense"] != "strong"]


def all_but_one(content):
    content["cells"] = content["cells"][:1]


def hidden(content):
    bad = find(content, **BAD)
    reason = {"coordinates": bad["coordinates"], "key": bad["key"], "failed": "took longer than the 60 s allowed"}
    content["cells"][content["cells"].index(bad)] = reason


def emptied(content):
    """Without values, under the digest of no values."""
    bad = find(content, **BAD)
    content["kinds"].append([])
    bad["kind"], bad["values"] = len(content["kinds"]) - 1, []
    reseal(content, bad)


def shorter(content):
    content["suite"]["grids"][0]["protocol"] |= {"steps": 4, "measure_at": [4]}


def weaker(content):
    attacker = content["suite"]["grids"][0]["attackers"]["full_descent"]
    attacker["params"]["lr"], attacker["call"] = 0.001, "FullDescent(lr=0.001)"


def other_key(content):
    find(content, **BAD)["key"] = "0" * 64


def swapped(content):
    """One seed's good value for another's."""
    good, bad = find(content, **BAD | {"seed": 1}), find(content, **BAD)
    bad["values"], bad["files"], bad["kind"] = good["values"], good["files"], good["kind"]


def invented(content):
    content["cells"].append({**find(content, **BAD), "key": "1" * 64})


def renamed(content):
    defenses = content["suite"]["grids"][0]["defenses"]
    defenses["mine"] = defenses.pop("strong")
    for cell in content["cells"]:
        if cell["coordinates"]["defense"] == "strong":
            cell["coordinates"]["defense"] = "mine"


def ranked(content):
    content["suite"]["grids"][0]["ranking"] = {"value": {"metric": "error"}, "better": "higher"}


def eased(content):
    """Of a model that the harness makes."""
    content["suite"]["grids"][0]["threat_models"]["all attackers"]["share"] = 1.0


def alike(content):
    content["suite"]["grids"][0]["members"]["1"] = ["2"]


def quantity(content, name):
    return next(item for item in content["suite"]["grids"][0]["quantities"] if item["name"] == name)


def uncounted(content):
    quantity(content, "sharpness")["unit"] = "s"


def upside_down(content):
    quantity(content, "error")["better"] = "lower"


def further(content):
    content["suite"]["grids"][0]["quantities"].append(quantity(content, "error") | {"name": "beauty"})


def other_measure(content):
    content["suite"]["grids"][0]["metrics"]["sharpness"]["measures"] = "attacked"


@pytest.mark.parametrize(
    ("harm", "cells", "message"),
    [
        (dropped, 0, f"cells of the plan are missing: 1, e.g. {WHERE}"),
        (dropped_with_its_row, 0, "cells of the plan are missing: 10"),
        (all_but_one, 0, "grid 'teachers' lacks cells"),
        (hidden, None, f"{WHERE}: failed only in the submission: took longer than the 60 s allowed"),
        (emptied, None, f"{WHERE}: 1 of 1 values do not agree"),
        (shorter, 0, "cells have other keys here (changed settings, another data set"),
        (weaker, 0, "cells have other keys here (changed settings, another data set"),
        (other_key, 0, "or another base model): 1, e.g."),
        (swapped, None, "values do not agree"),
        (invented, 0, "or another base model): 1, e.g."),
        (ranked, 0, "grid 'teachers': the field ranking differs"),
        (eased, 0, "grid 'teachers': the field threat_models differs"),
        (alike, 0, "grid 'teachers': the field members differs"),
        (uncounted, 0, "grid 'teachers': the field quantities differs"),
        (upside_down, 0, "grid 'teachers': the field quantities differs"),
        (further, 0, "grid 'teachers': the field quantities differs"),
    ],
)
def test_what_does_not_hold(forged, harm, cells, message):
    report = check(forged(harm), cells)
    assert report.verification is None
    assert any(message in problem for problem in report.problems), report.problems


def test_labels_are_the_submissions_own(forged):
    """A label is what the row is called; its call says what it is, and is checked."""
    assert check(forged(renamed), 0).verification is not None


def test_no_job_of_a_submission_runs_without_end(honest, monkeypatch):
    limits = []
    run = verify.scheduler.run
    monkeypatch.setattr(verify.scheduler, "run", lambda *args, **options: limits.append(options) or run(*args))
    check(honest, 1)
    check(honest, 1, timeout=60.0)
    assert [options["timeout"] for options in limits] == [verify.TIME_LIMIT, 60.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"call": "Shrinking()"},
            r"defense 'shrinking' is Shrinking\(share=0\.05\) here, but Shrinking\(\) in the submission: ",
        ),
        ({"deterministic": False}, "in the submission: it was changed"),
        ({"control": True}, "in the submission: it was changed"),
        ({"measures": "released"}, "in the submission: it was changed"),
    ],
)
def test_a_plugin_that_is_another_here(forged, changes, message):
    def harm(content):
        content["suite"]["grids"][0]["defenses"]["shrinking"].update(changes)

    with pytest.raises(InvalidSubmission, match=message):
        check(forged(harm), 0)


def test_a_reference_that_is_another(forged):
    def harm(content):
        grid = content["suite"]["grids"][0]
        grid["reference"] = grid["defenses"]["shrinking"]

    with pytest.raises(InvalidSubmission, match="the reference differs from the one that its protocol names"):
        check(forged(harm), 0)


def test_a_grid_that_is_too_large_to_plan(forged):
    def harm(content):
        content["suite"]["grids"][0]["seeds"] = list(range(1, 1001))
        content["suite"]["grids"][0]["metrics"] |= {
            f"sharpness {place}": content["suite"]["grids"][0]["metrics"]["sharpness"] for place in range(200)
        }

    with pytest.raises(InvalidSubmission, match="has more than 1000000 points"):
        check(forged(harm), 0)


def test_a_suite_with_another_protocol_than_the_installed_one(honest, install):
    """Consistent in itself, with shorter attacks than the installed suite has."""
    install(grids__0__protocol__steps=6)
    report = check(honest, 0)
    assert any("cells have another protocol or other settings than in small version 3" in problem
               for problem in report.problems)  # fmt: skip


def test_a_row_with_other_settings_must_be_marked_as_changed(tmp_path, install):
    """As `--set` marks it; then it holds, and is none of the suite's cells."""
    path = submitted(suite_file(tmp_path), tmp_path, settings=["defenses.strong.share=0.5"])
    install()
    report = check(path, 0)
    assert report.problems == []
    assert report.of_suite == (30 - 10, 30)
    content = content_of(path)
    assert content["suite"]["grids"][0]["changed"] == ["defenses.strong.share=0.5"]
    content["suite"]["grids"][0]["changed"] = []
    problems = check(write_content(content, path), 0).problems
    assert problems[0] == "grid 'teachers': defense 'strong' differs from small and is not marked as changed"
    assert problems[1].startswith("cells have another protocol or other settings than in small version 3: 10, e.g. ")


def test_another_tuning_than_the_installed_suites(honest, install):
    install(tuning={"seeds": [1]})
    assert "the tuning differs from that of small version 3" in check(honest, 0).problems


def test_a_part_of_an_installed_suite_is_one(tmp_path, install):
    path = submitted(suite_file(tmp_path), tmp_path, defenses=["none"], seeds=1)
    install()
    report = check(path, 0, plugins=())  # the installed suite brings its plugin file
    assert report.problems == []
    assert check(path, plugins=()).verification.tier == "spot-checked"  # all of its cells are not all of the suite's
    assert "it has 8 of the suite's 30 cells, and 0 others" in report.lines
    assert report.verification.summary == "schema-valid, 8 of the suite's 30 cells"


def test_what_is_left_out_of_an_installed_suite_must_be_marked(tmp_path, install):
    path = submitted(suite_file(tmp_path), tmp_path, defenses=["none"], seeds=1)
    install()
    content = content_of(path)
    content["suite"]["grids"][0]["changed"] = []
    assert check(write_content(content, path), 0).problems == [
        "grid 'teachers': small is narrowed (1 of 3 defenses) and this is not marked",
        "grid 'teachers': small is narrowed (seeds 1 instead of 1, 2) and this is not marked",
    ]


def test_another_version_of_the_suite_is_not_the_installed_one(honest, install):
    install(version=4, grids__0__protocol__steps=6)
    (problem,) = check(honest, 0).problems
    assert problem.startswith("small has version 4 here, not 3: verify it with immunebench at commit ")


@pytest.mark.parametrize("name", ["Small", "sm\u0430ll", "small ", "small\u200b"])
def test_a_suite_whose_name_looks_like_an_installed_one_is_refused(forged, install, name):
    install()

    def rename(content):
        content["suite"]["name"] = name

    path = forged(rename)
    if name == "Small":
        assert any("looks like that of small" in problem for problem in check(path, 0).problems)
    else:
        with pytest.raises(InvalidSubmission, match="name"):
            check(path, 0)


def test_another_version_of_a_stage_is_for_another_harness(forged, content):
    def older(content):
        content["provenance"]["stages"]["two_layer/adapt"] = 0

    commit = content["provenance"]["git"]["commit"]
    message = "stage two_layer/adapt has version 0 in the submission and 1 here: verify it with immunebench at commit "
    with pytest.raises(UsageError, match=message + commit):
        check(forged(older), 0)


@pytest.mark.slow
def test_a_plugin_with_other_code_is_skipped(tmp_path):
    """Its cells cannot be run again here, and that is said; the others can."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, text in ((here, ATTACK.replace("alpha=self.lr", "alpha=1.0 * self.lr")), (there, ATTACK)):
        folder.mkdir()
        (folder / "attack.py").write_text(text)
    path = submitted(suite_file(tmp_path), tmp_path, plugins=[there / "attack.py"])
    report = check(path, plugins=[TWO_LAYER, here / "attack.py"])
    assert report.problems == []
    skipped = [line for line in report.lines if line.startswith("skipped: ")]
    assert skipped == ["skipped: the code of attacker 'my_attack' here differs from that in the submission"]
    assert 0 < report.verification.rerun < report.verification.cells
    assert report.verification.tier == "spot-checked"
    assert ("teachers", "attacker", "my_attack") in report.verification.unchecked


def test_a_store_of_runs_is_no_store_for_verification(honest, store_root):
    with pytest.raises(UsageError, match="verify needs another store"):
        check(honest, store=store_root)


def test_what_was_submitted_never_answers_for_itself(honest, tmp_path, monkeypatch):
    """Neither the user's store nor the run's is opened; a store of its own is used again."""
    monkeypatch.setenv("IMMUNEBENCH_STORE", str(honest.parent / "store"))
    opened = []
    real = verify.Store
    monkeypatch.setattr(verify, "Store", lambda root: opened.append(root) or real(root))
    check(honest, 2, seed=1)
    check(honest, 2, seed=1, store=tmp_path / "own")
    assert honest.parent / "store" not in opened
    assert opened[1] == tmp_path / "own"
    assert not opened[0].exists()
    assert len(real(tmp_path / "own").keys()) >= 2


def test_a_track_that_came_as_a_file_asks_for_trust(honest):
    with pytest.raises(UsageError, match=r"unknown track 'two_layer'; .* read them, then run them by --trust"):
        check(honest, plugins=())
    verification = check(honest, plugins=(), trust=True).verification
    assert verification.rerun == verification.cells


MARK = "\nimport pathlib, os\npathlib.Path(os.environ['MARK']).touch()\n"
HELPED = "import helper_of_mine\nfrom package_of_mine.inner import FACTOR\n" + ATTACK.replace(
    "alpha=self.lr", "alpha=helper_of_mine.half(self.lr) * FACTOR"
)


def test_code_of_a_submission_runs_only_when_trusted(tmp_path, monkeypatch):
    """With the helper modules that it imports, which are gone from this machine."""
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    theirs = tmp_path / "theirs"
    (theirs / "package_of_mine").mkdir(parents=True)
    (theirs / "mine.py").write_text(HELPED + MARK)
    (theirs / "helper_of_mine.py").write_text("def half(number):\n    return number / 2\n")
    (theirs / "package_of_mine" / "__init__.py").write_text("")
    (theirs / "package_of_mine" / "inner.py").write_text("from .deep import FACTOR\n")
    (theirs / "package_of_mine" / "deep.py").write_text("FACTOR = 2\n")
    (theirs / "unrelated.py").write_text("secret = 1\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(theirs)
        path = submitted(suite_file(tmp_path), tmp_path, plugins=[theirs / "mine.py"], defenses=["none"], seeds=1)
    sources = {source.name: source for source in read_write.read(path).sources}
    assert sources["mine.py"].text == HELPED + MARK
    assert set(sources["mine.py"].modules) == {
        "helper_of_mine.py", "package_of_mine/__init__.py", "package_of_mine/inner.py", "package_of_mine/deep.py"
    }  # fmt: skip
    assert sources["two_layer.py"].modules == {}
    for module in ("helper_of_mine", "package_of_mine", "package_of_mine.inner", "package_of_mine.deep"):
        monkeypatch.delitem(__import__("sys").modules, module)
    (tmp_path / "mark").unlink()
    report = check(path)
    assert not (tmp_path / "mark").exists()
    assert "skipped: attacker 'my_attack' is a plugin file in the submission: read it, then run it by --trust" in (
        report.lines
    )
    assert (report.verification.tier, report.verification.rerun, report.verification.cells) == ("spot-checked", 8, 12)
    import sys

    before = list(sys.path)
    report = check(path, plugins=(), trust=True)
    assert (tmp_path / "mark").exists()
    assert report.problems == []
    assert report.verification.rerun == report.verification.cells
    assert sys.path == before
    assert "helper_of_mine" not in sys.modules


def test_a_cell_that_fails_here_too_agrees(tmp_path):
    (tmp_path / "mine.py").write_text(ATTACK.replace("yield loss", "raise ValueError('lost')\n            yield"))
    path = submitted(suite_file(tmp_path), tmp_path, plugins=[tmp_path / "mine.py"], defenses=["none"], seeds=1)
    report = check(path, plugins=(), trust=True)
    assert report.problems == []
    assert sum(line.endswith("failed in the submission and here") for line in report.lines) == 4


OUTSIDE = ["/etc", {"path": "../../etc"}, {"path": "/etc"}, "a/../../etc", "..\\x"]


@pytest.mark.parametrize("file", OUTSIDE)
@pytest.mark.parametrize("part", ["tasks", "params"])
def test_files_outside_of_the_suites_folder_are_refused(forged, file, part):
    def harm(content):
        grid = content["suite"]["grids"][0]
        place = grid["tasks"][0] if part == "tasks" else grid["defenses"]["strong"]["params"]
        place["teacher"] = file

    with pytest.raises(InvalidSubmission, match="outside of its suite's folder"):
        check(forged(harm), 0)


@pytest.mark.parametrize("teacher", [{"path": [1]}, {"path": "x"}, -1, None, "unknown"])
def test_tasks_that_the_track_refuses_are_refused(forged, teacher):
    def harm(content):
        content["suite"]["grids"][0]["tasks"][0]["teacher"] = teacher

    with pytest.raises(InvalidSubmission, match="grid 'teachers': teacher"):
        check(forged(harm), 0)


def test_a_track_that_fails_on_a_submission_is_one_line(honest, monkeypatch):
    def fail(*_):
        raise KeyError("what suite files never say")

    monkeypatch.setattr(verify, "make", fail)
    with pytest.raises(InvalidSubmission, match="no plan can be made for its suite: KeyError"):
        check(honest, 0)


NAMES = st.text("ab", min_size=1, max_size=3)
JSON = st.recursive(
    st.none() | st.integers() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@given(JSON, st.lists(NAMES, min_size=1, max_size=3))
def test_paths_in_a_suites_folder_come_back_in_that_of_another_machine(other, parts):
    there, here = Path("/there/suites"), Path("/here")
    packed = portable([other, {"images": str(there.joinpath(*parts))}], there)
    assert "/there" not in json.dumps(packed)
    assert placed(packed, here) == [other, {"images": str(here.joinpath(*parts))}]
    assert portable("/elsewhere/of/mine", there) == {"path": "mine"}


SHIPPED = [str(ROOT / "docs" / "examples" / "two_layer.yaml"), "quick", "house_prices"]
SHIPPED += [
    pytest.param(entry.name, marks=pytest.mark.slow) for entry in installed().all("suite") if entry.name not in SHIPPED
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_suites_plan_is_the_same_from_its_submission(name, content):
    """With the plugins of this machine, and with none of them; one task and seed of each grid."""
    suite = load(name)
    assert suite.name in name
    small = [
        grid.model_copy(update={"seeds": [1], "tasks": grid.tasks[:1], "members": dict(list(grid.members.items())[:1])})
        for grid in suite.grids
    ]
    suite = suite.model_copy(update={"grids": small})
    content["suite"] = json.loads(json.dumps(pack.packed_suite(suite)))
    assert str(suite.folder) not in json.dumps(content["suite"])
    grid = content["suite"]["grids"][0]
    where = {"grid": grid["name"], "task": next(iter(grid["members"])), "defense": next(iter(grid["defenses"]))}
    content["cells"] = [{"coordinates": where | {"measured_by": "cost"}, "key": "0" * 64, "failed": "lost"}]
    submission = read_write.parse(content, "here")
    expected = [(dict(cell.coordinates), cell.job.key) for cell in make(suite).cells]
    local = localise(submission, suite.folder, suite.plugins)
    assert (local.problems, local.skipped) == ([], [])
    absent = copy.deepcopy(local.suite)
    for part in absent.grids:
        for rows in (part.defenses, part.attackers, part.metrics):
            rows.update({label: PluginSpec(**spec.model_dump()) for label, spec in rows.items()})
    for here in (local.suite, absent):
        assert [(dict(cell.coordinates), cell.job.key) for cell in make(here).cells] == expected


def leaves(value, path=()):
    """The paths of all that stands in JSON, but for objects and lists."""
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, name))
    else:
        yield path


FREE = ("title", "description", "costs", "provenance", "package", "measure_at")
"""What says nothing of a value, and only its author can know; this track measures at the last step alone."""


def is_metered(content, path):
    """Whether it is what a clock or the system's memory said."""
    if path[0] != "cells" or path[2] != "values":
        return False
    return content["kinds"][content["cells"][path[1]]["kind"]][path[3]]["metric"] in ("seconds", "peak_mb")


def free(path):
    """Whether nothing can tell that it was changed."""
    is_text = "quantities" in path and path[-1] in ("title", "description", "formula", "variant", "limits")
    is_free = bool(set(path) & set(FREE)) and "quantities" not in path
    return is_text or is_free


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_nothing_can_be_changed_unseen(honest, content, tmp_path, small_installed, data):
    """One thing anywhere in the file, with the digests of values written anew as a forger would, and all cells run
    again (once; then they are in the store of these checks)."""
    content = copy.deepcopy(content)
    paths = [path for path in leaves(content) if not free(path) and not is_metered(content, path)]
    kinds = sorted({re.sub(r"\d+", "0", "/".join(map(str, path))) for path in paths})
    kind = data.draw(st.sampled_from(kinds))  # so that the many values do not crowd out the rest
    path = data.draw(st.sampled_from([p for p in paths if re.sub(r"\d+", "0", "/".join(map(str, p))) == kind]))
    *parents, last = path
    part = content
    for name in parents:
        part = part[name]
    old = part[last]
    others = ["x", "f" * 64, 0, 1, 7, 0.5, 1e9, None, True]
    new = data.draw(st.sampled_from([value for value in others if value != old]))
    part[last] = new
    for cell in content["cells"] if "files" not in path else ():
        with suppress(Exception):
            reseal(content, cell)
    changed = write_content(content, tmp_path / "changed.json.gz")
    note = f"{parents}.{last}: {old!r} became {new!r}"
    try:
        report = check(changed, plugins=(), trust=True, store=honest.parent / "checks")
    except (InvalidSubmission, UsageError):
        return
    assert report.verification is None or report.verification.tier != "reproduced", note


def test_a_verification_is_recorded_beside_its_submission(honest, tmp_path):
    path = tmp_path / "sub.json.gz"
    path.write_bytes(honest.read_bytes())
    report = check(path, 2, seed=5)
    tiers.verification_file(path).write_text(report.verification.model_dump_json(indent=1))
    assert tiers.tier(path).startswith("spot-checked, 2 of 30 cells rerun on ")


def test_threat_models_and_sweeps_are_the_installed_suites(content, honest, install, tmp_path):
    """They read values alone, so no key tells that they were changed."""
    install(grids__0__threat_models={"few": {"attackers": ["full_descent"]}})
    grid = content["suite"]["grids"][0]
    grid["threat_models"] = {"few": {"attackers": ["full_descent"], "evidence": True}}
    grid["sweeps"] = {"strong": ["shrinking", "strong"]}
    grid["ensemble"] = {"name": "red_team", "version": 1, "digest": "0" * 64, "attackers": ["full_descent"]}
    assert check(write_content(content, tmp_path / "forged.json"), 0).problems == [
        "grid 'teachers': the threat models differ from those of small",
        "grid 'teachers': the ensemble of attackers differs from that of small",
        "grid 'teachers': the sweeps differ from those of small",
    ]
    grid["sweeps"] = {"strong": ["stronger"]}
    with pytest.raises(InvalidSubmission, match="sweeps: 'strong' names 'stronger', which is no row of the grid"):
        check(write_content(content, tmp_path / "forged.json"), 0)


@pytest.fixture
def of_checkpoint(tiny, tmp_path):
    """A submission with a row of a checkpoint, and the folder of its weights."""
    extractor = Extractor(79)
    with torch.no_grad():
        extractor.weight.mul_(3)
    (tmp_path / "mine").mkdir()
    extractor.save(tmp_path / "mine")
    chosen = {"attackers": ["gradient_descent"], "defenses": ["none"], "seeds": 1}
    return submitted(tiny, tmp_path, checkpoints={"mine": tmp_path / "mine"}, **chosen), tmp_path / "mine"


def test_a_checkpoint_is_verified_with_its_weights_and_planned_without(of_checkpoint, tmp_path):
    path, folder = of_checkpoint
    digest = content_of(path)["suite"]["grids"][0]["defenses"]["mine"]["params"]["digest"]
    assert str(tmp_path) not in json.dumps(content_of(path))
    with_weights = check(path, plugins=(), checkpoints={"mine": folder})
    assert (with_weights.problems, with_weights.verification.unchecked) == ([], [])
    assert with_weights.verification.rerun == with_weights.verification.cells
    without = check(path, plugins=())
    assert without.problems == []
    assert f"skipped: the weights of 'mine' (SHA-256 {digest}) are needed: --checkpoint mine=DIR" in without.lines
    assert [row[1:] for row in without.verification.unchecked] == [("defense", "mine")]
    ineligible = without.verification.cells - without.verification.rerun
    assert ineligible > 0
    done = immunebench("verify", path, "--cells", 0)
    assert (
        f"verdict: schema-valid, {ineligible} of {without.verification.cells} cells could not be rerun (" in done.stdout
    )


def test_a_checkpoint_is_not_verified_with_other_weights(of_checkpoint):
    path, folder = of_checkpoint
    with pytest.raises(UsageError, match="the submission has no such checkpoint; did you mean mine"):
        check(path, plugins=(), checkpoints={"mime": folder})
    Extractor(79).save(folder)
    with pytest.raises(UsageError, match=r"has weights of SHA-256 .*, the row has those of"):
        check(path, plugins=(), checkpoints={"mine": folder})


def test_tasks_that_are_left_out_are_marked(install, tmp_path):
    install()
    path = submitted(suite_file(tmp_path), tmp_path, tasks="2", defenses="none", seeds=1)
    assert check(path).problems == []
    content = content_of(path)
    content["suite"]["grids"][0]["changed"].remove("1 of 2 tasks")
    (problem,) = check(write_content(content, path)).problems
    assert problem == "grid 'teachers': small is narrowed (1 of 2 tasks) and this is not marked"
