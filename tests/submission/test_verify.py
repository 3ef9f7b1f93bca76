"""Checking submissions: honest ones hold, and each way to cheat is seen."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from defenses.random_init import RandomInit
from harness import api
from harness.errors import UsageError
from harness.execution import executors
from harness.plan import make
from harness.registry import Catalogue
from harness.submission import pack as packing
from harness.submission import read_write as submission
from harness.submission import replan, verify
from harness.submission import tier as tiers
from harness.submission.schema import InvalidSubmission, Plugin, Suite
from harness.suite import load
from tests.helpers import MINE, SUITE, change, content_of, immunebench, resealed


def submitted(suite, folder, **options):
    """The submission of a run, and its content."""
    api.run(str(suite), workers=1, out=folder / "run", **options)
    path, _ = packing.submit(folder / "run", folder / "sub.json.gz")
    return path, content_of(path)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """One honest run for all: a folder of its own, with its store."""
    folder = tmp_path_factory.mktemp("honest")
    (folder / "tiny.yaml").write_text(SUITE)
    path, _ = submitted(folder / "tiny.yaml", folder, store=folder / "store", attackers=["adam"])
    return path


@pytest.fixture
def forged(honest, tmp_path):
    """`forged(change)`: the file of the submission as `change` makes its content."""

    def forge(change):
        content = content_of(honest)
        change(content)
        submission.write(content, tmp_path / "forged.json.gz")
        return tmp_path / "forged.json.gz"

    return forge


def check(path, cells=None, **options):
    return verify.verify(path, cells, executor=executors.Serial, **options)


def cell(content, **at):
    return next(cell for cell in content["cells"] if at.items() <= cell["at"].items())


BAD = {"defense": "condition_number", "seed": 2}
"""A cell that a cheat would like to be better."""


def test_an_honest_submission_is_reproduced(honest, tmp_path):
    report = check(honest)
    assert report.problems == []
    found = report.verification
    assert (found.tier, found.cells, found.rerun) == ("reproduced", 15, 15)
    content = content_of(honest)
    metered = [len([f for f in content["kinds"][c["kind"]] if f["metric"] in ("seconds", "peak_mb")])
               for c in content["cells"]]  # fmt: skip
    assert found.exact == sum(len(c["values"]) for c in content["cells"]) - sum(metered)
    assert (found.tolerance, found.interval) == (0, 0)
    assert found.submission == hashlib.sha256(honest.read_bytes()).hexdigest()


def test_cells_are_drawn_by_the_seed(honest):
    first, same, other = (check(honest, 3, seed=seed).lines for seed in (7, 7, 8))
    assert first == same
    assert any("run again: 3 of 15 cells, drawn by --seed 7" in line for line in first)
    assert [line for line in first if line.startswith("  ")] != [line for line in other if line.startswith("  ")]
    assert check(honest, 3).verification.tier == "spot-checked"
    unseeded = {check(honest, 0).verification.seed for _ in range(3)}
    assert len(unseeded) == 3


def test_the_command(honest, forged):
    done = immunebench("verify", honest, "--cells", "2", "--seed", "5", "--workers", "1", "--record")
    assert done.returncode == 0
    assert "verdict: spot-checked, 2 of 15 cells rerun on" in done.stdout
    assert "run again: 2 of 15 cells, drawn by --seed 5" in done.stdout
    assert tiers.tier(honest).startswith("spot-checked, 2 of 15 cells rerun on ")
    noted = json.loads(tiers.beside(honest).read_text())
    tiers.beside(honest).unlink()
    assert (noted["seed"], noted["rerun"]) == (5, 2)
    done = immunebench("verify", forged(dropped), "--cells", "0", "--record")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "verdict: does not hold"
    assert not tiers.beside(honest.parent / "forged.json.gz").exists()


def test_a_forged_figure_is_found_by_running_its_cell_again(forged):
    """Its digests are written anew: nothing but a rerun can tell, and one that draws the cell does."""

    def better(content):
        bad = cell(content, **BAD)
        place = [f["metric"] for f in content["kinds"][bad["kind"]]].index("rir")
        bad["values"][place] *= 1.01
        resealed(content, bad)

    path = forged(better)
    report = check(path)
    assert report.verification is None
    (problem,) = report.problems
    where = "house_prices · house_prices · condition_number · 2"
    assert problem.startswith(f"{where}: 1 of 50 figures do not agree, e.g. rir floor")
    assert check(path, 0).verification.tier == "schema-valid"


def test_a_figure_forged_among_many_seeds_is_found(tiny, tmp_path):
    """Their spread lets a redrawn figure pass, not one that is ten times as good."""
    path, content = submitted(change(tiny, seeds=4), tmp_path, attackers=[], defenses=["none", "condition_number"])
    bad = cell(content, **BAD)
    place = [f["metric"] for f in content["kinds"][bad["kind"]]].index("rir")
    bad["values"][place] *= 10
    resealed(content, bad)
    submission.write(content, path)
    assert any("figures do not agree, e.g. rir floor" in problem for problem in check(path).problems)


def dropped(content):
    content["cells"].remove(cell(content, **BAD))


def dropped_with_its_row(content):
    content["cells"] = [of for of in content["cells"] if of["at"]["defense"] != "condition_number"]


def all_but_one(content):
    content["cells"] = content["cells"][:1]


def hidden(content):
    bad = cell(content, **BAD)
    content["cells"][content["cells"].index(bad)] = {"at": bad["at"], "calls": bad["calls"], "key": bad["key"],
                                                     "failed": "took longer than the 60 s allowed"}  # fmt: skip


def shorter(content):
    content["suite"]["grids"][0]["protocol"]["steps"] = 4
    content["suite"]["grids"][0]["protocol"]["measure_at"] = [0, 1, 4]


def weaker(content):
    adam = next(plugin for plugin in content["plugins"] if plugin["name"] == "adam")
    adam["params"]["lr"], adam["call"] = 0.001, "Adam(lr=0.001)"
    for of in content["cells"]:
        if "attacker_call" in of["calls"]:
            of["calls"]["attacker_call"] = adam["call"]


def other_key(content):
    cell(content, **BAD)["key"] = "0" * 64


def swapped(content):
    """One seed's good figures for another's."""
    good, bad = cell(content, defense="condition_number", seed=1), cell(content, **BAD)
    bad["values"], bad["files"], bad["kind"] = good["values"], good["files"], good["kind"]


def invented(content):
    content["cells"].append({**cell(content, **BAD), "key": "1" * 64})


def renamed(content):
    for of in content["cells"]:
        if of["at"]["defense"] == "random_init":
            of["at"]["defense"] = "mine"
    defenses = content["suite"]["grids"][0]["defenses"]
    defenses["mine"] = defenses.pop("random_init")
    controls = content["judging"]["house_prices"]["controls"]
    controls["mine"] = controls.pop("random_init")


def flattered(content):
    del content["judging"]["house_prices"]["controls"]["random_init"]


def lenient(content):
    content["judging"]["house_prices"]["protection"]["broken"] = 1e-6


def unread(content):
    del content["metrics"]["probe"]["rir"]


def uncounted(content):
    content["metrics"]["probe"]["rir"]["unit"] = "s"


@pytest.mark.parametrize(
    ("harm", "cells", "told"),
    [
        (dropped, 0, "cells that its plan has are missing: 1, e.g. house_prices · house_prices · condition_number · 2"),
        (dropped_with_its_row, 0, "cells that its plan has are missing: 6"),
        (all_but_one, 0, "grid 'house_prices' lacks cells"),
        (hidden, None, "condition_number · 2: failed there only: took longer than the 60 s allowed"),
        (shorter, 0, "cells have another key here (the configuration was changed, or"),
        (weaker, 0, "cells have another key here (the configuration was changed, or"),
        (other_key, 0, "or base model here): 1, e.g."),
        (swapped, None, "figures do not agree"),
        (invented, 0, "or base model here): 1, e.g."),
        (uncounted, 0, "metric 'rir' has another unit or scale here"),
        (unread, 0, "metric 'rir' has another unit or scale here"),
        (flattered, 0, "its figures are judged otherwise here"),
        (lenient, 0, "its figures are judged otherwise here"),
    ],
)
def test_dropped_changed_and_invented_cells_are_found(forged, harm, cells, told):
    report = check(forged(harm), cells)
    assert report.verification is None
    assert any(told in problem for problem in report.problems), report.problems


def test_labels_are_the_submissions_own(forged):
    """A label is what the row is called; what it is stands in its call, which is checked."""
    assert check(forged(renamed), 0).verification is not None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"call": "ConditionNumber()"}, r"defense 'condition_number' is ConditionNumber\(epochs=1, .*\) here, not "),
        ({"deterministic": True}, "the configuration was changed"),
    ],
)
def test_a_changed_call_or_seeding_of_a_plugin_is_refused(forged, changes, told):
    def harm(content):
        next(plugin for plugin in content["plugins"] if plugin["name"] == "condition_number").update(changes)

    with pytest.raises(InvalidSubmission, match=told):
        check(forged(harm), 0)


def test_a_suite_that_is_another_than_the_one_of_its_name(tmp_path, tiny):
    """Consistent in itself, with shorter attacks than the installed suite has."""
    path, _ = submitted(change(tiny, name="house_prices", version=1), tmp_path, defenses=["none"], attackers=["adam"])
    report = check(path, 0)
    assert any("cells have another protocol or other settings than house_prices version 1 has" in problem
               for problem in report.problems)  # fmt: skip


def test_a_part_of_an_installed_suite_is_one(tmp_path):
    path, _ = submitted("house_prices", tmp_path, defenses=["none"], attackers=["gradient_descent"], seeds=1)
    report = check(path, 0)
    assert report.problems == []
    assert any(line.startswith("it has 3 of the ") and line.endswith(", and 0 others") for line in report.lines)
    assert report.verification.told == "schema-valid, 3 of the suite's 795 cells"


def test_one_attacker_of_several_is_a_part_too():
    """Though the contact sheet, which shows all attackers, is another one."""
    part = make(load("personal", grids=[load("personal").grids[0].name], attackers=["dreambooth"], seeds=1))
    report = verify.Report()
    sheets = {cell.job.key for cell in part.cells if cell.job.stage == "sheet"}
    assert sheets
    verify._as_installed(
        SimpleNamespace(suite=part.suite, tuning=part.suite.tuning),
        part,
        {cell.job.key for cell in part.cells} - sheets,
        report,
    )
    assert report.problems == []
    assert report.lines[0].endswith(f"and {len(sheets)} others")


def test_another_version_of_a_stage_is_for_another_harness(forged):
    def older(content):
        content["provenance"]["stages"]["probe/spectrum"] = 0

    with pytest.raises(UsageError, match=r"stage probe/spectrum has version 0 in the submission and 1 here"):
        check(forged(older), 0)


def test_a_plugin_with_another_source_is_skipped(honest, monkeypatch):
    """Its cells cannot be run again here, and that is said; the others can."""
    monkeypatch.setattr(RandomInit, "source", lambda self: "0" * 64)
    report = check(honest)
    assert report.problems == []
    assert "skipped: defense 'random_init' has another source here than in immunebench 0.1.0" in report.lines
    assert (report.verification.tier, report.verification.rerun) == ("spot-checked", 15 - 6)
    assert not any("random_init" in line for line in report.lines if line.startswith("  "))


def test_a_store_of_runs_is_no_store_for_checks(honest, store_root):
    with pytest.raises(UsageError, match="verify wants a store of its own"):
        check(honest, store=store_root)


def test_verification_opens_neither_the_users_nor_the_runs_store(honest, tmp_path, monkeypatch):
    """Neither the user's store nor the one of the run is opened; one of its own goes on from what it has."""
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


MARK = "\nimport pathlib, os\npathlib.Path(os.environ['MARK']).touch()\n"


def test_code_of_a_submission_runs_only_when_trusted(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    (tmp_path / "mine.py").write_text(MINE + MARK)
    path, content = submitted(tiny, tmp_path, plugins=[tmp_path / "mine.py"], defenses=["none"], seeds=1)
    assert list(content["sources"].values()) == [MINE + MARK]
    (tmp_path / "mine.py").unlink()
    (tmp_path / "mark").unlink()
    report = check(path)
    assert not (tmp_path / "mark").exists()
    assert "skipped: attacker 'my_attack' came as a file with the submission; --trust runs it, look at it first" in (
        report.lines
    )
    assert (report.verification.tier, report.verification.rerun, report.verification.cells) == ("spot-checked", 5, 7)
    report = check(path, trust=True)
    assert (tmp_path / "mark").exists()
    assert report.verification.tier == "reproduced"


def test_a_cell_that_fails_in_both_runs_agrees(tiny, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("yield loss", "raise ValueError('lost')\n            yield"))
    path, _ = submitted(tiny, tmp_path, plugins=[tmp_path / "mine.py"], defenses=["none"], seeds=1)
    report = check(path, trust=True)
    assert report.problems == []
    assert sum(line.endswith("failed there and here") for line in report.lines) == 2


OUTSIDE = ["/etc", {"path": "../../etc"}, {"path": "/etc"}, "a/../../etc", "..\\x"]


@pytest.mark.parametrize("named", OUTSIDE)
def test_files_outside_of_the_suites_folder_are_refused(forged, named):
    def harm(content):
        content["suite"]["grids"][0]["tasks"][0]["data"] = named

    with pytest.raises(InvalidSubmission, match="outside of its suite's folder"):
        check(forged(harm), 0)


@pytest.mark.parametrize("named", [{"path": [1]}, {"path": "x"}, 7, None, "unknown"])
def test_tasks_that_no_track_has_are_refused(forged, named):
    def harm(content):
        content["suite"]["grids"][0]["tasks"][0]["data"] = named

    with pytest.raises(InvalidSubmission, match="grid 'house_prices': data"):
        check(forged(harm), 0)


def test_an_error_in_a_track_is_one_line(forged, monkeypatch):
    def choke(*_):
        raise KeyError("what suite files never say")

    monkeypatch.setattr("harness.probe.track.ProbeTrack.measurements", choke)
    with pytest.raises(InvalidSubmission, match="no plan can be made of its suite: KeyError"):
        check(forged(lambda content: None), 0)


NAMES = st.text("ab", min_size=1, max_size=3)
JSON = st.recursive(
    st.none() | st.integers() | NAMES, lambda of: st.lists(of, max_size=3) | st.dictionaries(NAMES, of, max_size=3)
)


@given(JSON, st.lists(NAMES, min_size=1, max_size=3))
def test_paths_in_a_suites_folder_come_back_in_that_of_another_machine(other, parts):
    there, here = Path("/there/suites"), Path("/here")
    told = packing._portable([other, {"images": str(there.joinpath(*parts))}], there)
    assert "/there" not in json.dumps(told)
    assert replan.placed(told, here) == [other, {"images": str(here.joinpath(*parts))}]
    assert packing._portable("/elsewhere/of/mine", there) == {"path": "mine"}


@pytest.mark.parametrize("name", [entry.name for entry in Catalogue().all("suite")])
def test_a_shipped_suites_plan_is_the_same_from_its_submission(name):
    suite = load(name, seeds=1)
    told = json.loads(json.dumps(packing.pack_suite(suite)))
    plugins = [Plugin.model_validate(plugin) for plugin in told["plugins"]]
    found = SimpleNamespace(suite=Suite.model_validate(told["suite"]), plugins=plugins, sources={}, tuning=suite.tuning)
    unknown = make(replan.suite_of(found, suite.folder, lambda plugin: None))
    known = make(replan.suite_of(found, suite.folder, replan.Plugins(found, None).find))
    expected = [(dict(cell.coordinates), cell.job.key) for cell in make(suite).cells]
    for plan in (unknown, known):
        assert [(dict(cell.coordinates), cell.job.key) for cell in plan.cells] == expected
    assert str(suite.folder) not in json.dumps(told)


def leaves(value, path=()):
    """The paths of all that stands in JSON, but for objects and lists."""
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, name))
    else:
        yield path


FREE = ("title", "description", "costs", "provenance", "package")
"""What says nothing of a figure; nobody but its author can know it."""


def metered(content, path):
    """Whether it is what a clock or the system's memory said."""
    if path[0] != "cells" or path[2] != "values":
        return False
    return content["kinds"][content["cells"][path[1]]["kind"]][path[3]]["metric"] in ("seconds", "peak_mb")


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_single_change_of_a_submission_is_found(honest, tmp_path, data):
    """One thing anywhere in the file, with the digests of figures written anew as a forger would, and all cells run
    again (once; then they are in the store of these checks)."""
    content = content_of(honest)
    paths = [of for of in leaves(content) if not set(FREE) & set(of) and not metered(content, of)]
    paths = [of for of in paths if of[:2] not in {("suite", "name"), ("suite", "version")}]  # it is not installed
    kinds = sorted({re.sub(r"\d+", "0", "/".join(map(str, of))) for of in paths})
    kind = data.draw(st.sampled_from(kinds))  # so that the many figures do not crowd out the rest
    path = data.draw(st.sampled_from([of for of in paths if re.sub(r"\d+", "0", "/".join(map(str, of))) == kind]))
    *parents, last = path
    at = content
    for name in parents:
        at = at[name]
    old = at[last]
    others = ["x", "f" * 64, 0, 1, 7, 0.5, 1e9, None, True]
    new = data.draw(st.sampled_from([value for value in others if value != old]))
    at[last] = new
    for of in content["cells"] if "files" not in path else ():
        with suppress(Exception):
            resealed(content, of)
    changed = tmp_path / "changed.json.gz"
    submission.write(content, changed)
    note = f"{parents}.{last}: {old!r} became {new!r}"
    try:
        report = check(changed, store=honest.parent / "checks")
    except (InvalidSubmission, UsageError):
        return
    assert report.verification is None or report.verification.tier != "reproduced", note
