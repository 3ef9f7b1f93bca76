"""Ensembles of attackers: how suites name them, and what is refused."""

import shutil
from pathlib import Path

import pytest
import yaml

import harness
from harness.ensemble import digest, read
from harness.errors import UsageError
from harness.registry import installed
from harness.selection import Selection
from harness.suite import Suite
from harness.suite_reader import load
from tests.helpers import change

MEMBERS = {
    "attackers": {"krylov": {}, "fast": {"plugin": "adam", "lr": 0.5}},
    "threat_models": {"exact": {"attackers": ["krylov"], "unit": "gradients", "budget": 4}},
}
CONTENT = {"format": 1, "name": "team", "version": 2, "rule": "of a test", "tracks": {"probe": MEMBERS}}
DIGESTS = {
    "red_team 1": {
        "diffusion": "f751ac51ccebff4905365713245c2e6a0deeb5d5565961dbac04d92c698554d4",
        "deep": "60c294e0773fc92a38153d9f00036b4a730897a19b6183af639985007de60de4",
        "probe": "4e9c13c361676f6a84fbbc57df75bf5661ebf7884ada35ff5fd39126c06168d8",
    },
    "red_team 2": {"diffusion": "94d110a5d94480ff15383266531fbf9b4d5b3f28839e686fcd6bcfa1555f5398"},
}
"""By name and version, the digest of an ensemble's members for each track: a changed member makes a new version, in a
new file."""


@pytest.fixture
def ensemble(tmp_path):
    """Write an ensemble beside the suite `tiny`, with changed keys. Returns the path that a grid names."""

    def write(**changes):
        (tmp_path / "team").mkdir(exist_ok=True)
        (tmp_path / "team" / "2.yaml").write_text(yaml.safe_dump(CONTENT | changes, sort_keys=False))
        return "team/2.yaml"

    return write


def file_of(name):
    return Path(installed().get("ensemble", name).file)


@pytest.mark.parametrize("name", [entry.name for entry in installed().all("ensemble")])
def test_a_version_of_an_ensemble_never_changes(name):
    file = read(file_of(name))
    assert name == f"{file.name} {file.version}"
    digests = {track: digest(members) for track, members in file.tracks.items()}
    assert digests == DIGESTS[name], "raise the version, in a new file"


def test_a_digest_is_of_all_that_an_ensemble_runs_on_a_track(tmp_path, ensemble):
    path = tmp_path / ensemble()

    def now():
        return digest(read(path).tracks["probe"])

    before = now()
    ensemble(rule="another wording", version=3, tracks={"probe": MEMBERS, "deep": {"attackers": {"fine_tuning": {}}}})
    assert now() == before
    tuned = {"format": 1, "suite": "tiny", "version": 3, "trials": 1, "epsilon": 0.05, "attackers": {}}
    (path.parent / "tuned.yaml").write_text(yaml.safe_dump(tuned))
    ensemble(tracks={"probe": {"attackers": {"adam": {"tuned": "tuned.yaml"}}}})
    with_settings = now()
    (path.parent / "tuned.yaml").write_text(yaml.safe_dump(tuned | {"attackers": {"adam": {"none": {"lr": 0.3}}}}))
    assert len({before, with_settings, now()}) == 3


def test_a_grid_has_the_members_of_its_track_after_its_own_rows(tiny, ensemble):
    own = {"adam": {"lr": 0.1}}
    path = change(tiny, grids__0__attackers=own, grids__0__ensemble=ensemble())
    (grid,) = load(path).grids
    assert list(grid.attackers) == ["adam", "krylov", "fast"]
    assert [grid.attackers[label].params["lr"] for label in ("adam", "fast")] == [0.1, 0.5]
    assert list(grid.threat_models) == ["exact", "other attackers"]
    assert grid.threat_models["exact"].budget == 4
    assert (str(grid.ensemble), grid.ensemble.attackers) == ("team 2", ["krylov", "fast"])
    assert not grid.changed
    (part,) = load(path, Selection.of(attackers=["fast"], settings=["attackers.fast.lr=1"])).grids
    assert list(part.attackers) == ["fast"]
    assert part.changed == ["attackers.fast.lr=1", "1 of 3 attackers"]
    assert part.ensemble == grid.ensemble
    suite = load(path)
    assert Suite.model_validate_json(suite.model_dump_json()).model_dump() == suite.model_dump()


def test_a_grid_may_have_no_rows_of_its_own(tiny):
    content = yaml.safe_load(tiny.read_text())
    del content["grids"][0]["attackers"]
    content["grids"][0]["ensemble"] = "red_team 1"
    tiny.write_text(yaml.safe_dump(content))
    (grid,) = load(tiny).grids
    members = read(file_of("red_team 1")).tracks["probe"]
    assert list(grid.attackers) == list(members.attackers)
    assert list(grid.threat_models) == list(members.threat_models)


def test_settings_of_tuned_rows_are_relative_to_the_ensemble(tiny, ensemble):
    tuned = {"adam": {"none": {"lr": 0.3}, "random_init": {"lr": 0.2}, "condition_number": {"lr": 0.7}}}
    fields = {"format": 1, "suite": "tiny", "version": 3, "trials": 1, "epsilon": 0.05, "attackers": tuned}
    rows = {"best": {"plugin": "adam", "tuned": "tuned.yaml"}}
    path = change(tiny, grids__0__ensemble=ensemble(tracks={"probe": {"attackers": rows}}))
    (tiny.parent / "team" / "tuned.yaml").write_text(yaml.safe_dump(fields))
    (grid,) = load(path).grids
    assert {defense: grid.attacker("best", defense).params["lr"] for defense in grid.defenses} == {
        defense: settings["lr"] for defense, settings in tuned["adam"].items()
    }


def test_settings_searched_on_one_base_model_are_dropped_on_another(tiny, ensemble):
    """So is the preset, in place of which the other base model's preset comes."""
    tuned = {"adam": {"none": {"lr": 0.3}}}
    fields = {"format": 1, "suite": "tiny", "version": 3, "trials": 1, "epsilon": 0.05, "attackers": tuned}
    row = {"plugin": "adam", "tuned": "tuned.yaml", "tuned_on": "none"}
    path = change(
        tiny,
        bases={"other": {}},
        grids__0__defenses={"none": {}},
        grids__0__attackers={"own": row},
        grids__0__ensemble=ensemble(tracks={"probe": {"attackers": {"best": row}}}),
    )
    for folder in (tiny.parent, tiny.parent / "team"):
        (folder / "tuned.yaml").write_text(yaml.safe_dump(fields))
    (here,), (there,) = load(path).grids, load(path, Selection(base="other")).grids
    default = installed().get("attacker", "adam").spec({}, "test").params["lr"]
    for label in ("own", "best"):
        assert here.attacker(label, "none").params["lr"] == 0.3
        assert there.attacker(label, "none").params["lr"] == default
    assert not there.tuned
    assert there.ensemble == here.ensemble


@pytest.mark.parametrize(
    ("named", "changes", "message"),
    [
        (
            "red_taem 1",
            {},
            r"tiny.yaml, line \d+, grid 'house_prices': unknown ensemble 'red_taem 1'; did you mean red",
        ),
        ("red_team 99", {}, "unknown ensemble 'red_team 99'; did you mean red_team"),
        ("absent.yaml", {}, r"grid 'house_prices': ensemble file absent.yaml does not exist"),
        (None, {"tracks": {"diffusion": MEMBERS}}, "team 2 has no attackers of track 'probe', only of diffusion"),
        (None, {"tracks": {"probe": {"attackers": {"adam": {}}}}}, "team 2 has the attacker 'adam' as well; give the"),
        (
            None,
            {"tracks": {"probe": {**MEMBERS, "threat_models": {"own": {"attackers": ["fast"]}}}}},
            "team 2 has the threat model 'own' as well",
        ),
        (
            None,
            {"tracks": {"probe": {**MEMBERS, "threat_models": {"x": {"attackers": ["krylow"]}}}}},
            r"team.2.yaml: tracks.probe: threat model 'x' names 'krylow', .*; did you mean krylov",
        ),
        (None, {"version": 0}, r"team.2.yaml: version: must be greater than or equal to 1 .*line 3"),
        (None, {"format": 2}, "team.2.yaml: format: must be less than or equal to 1"),
        (None, {"members": {}}, "team.2.yaml: unknown key 'members'; did you mean"),
        (
            None,
            {"tracks": {"probe": {"attackers": {"x": {"plugin": "krylow"}}}}},
            "grid 'house_prices', ensemble team 2: unknown attacker 'krylow'; did you mean krylov",
        ),
    ],
)
def test_bad_ensembles_are_one_clear_line(tiny, ensemble, named, changes, message):
    own = {"own": {"attackers": ["adam"]}}
    path = change(tiny, grids__0__threat_models=own, grids__0__ensemble=named or ensemble(**changes))
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_shipped_file_has_the_name_and_version_of_its_place(tiny, tmp_path, monkeypatch):
    """The entry of a file that was copied and not yet changed."""
    copy = tmp_path / "9.yaml"
    shutil.copy(file_of("red_team 1"), copy)
    entry = installed().get("ensemble", "red_team 1")
    other = type(entry)("ensemble", "red_team 9", entry.module, "", str(copy), file=str(copy))
    monkeypatch.setitem(installed()._entries["ensemble"], "red_team 9", other)
    with pytest.raises(UsageError, match="the file of 'red_team 9' has name and version red_team 1"):
        load(change(tiny, grids__0__ensemble="red_team 9"))


WEAK = '''
"""A planted weak defense."""

import torch

from harness.probe import ProbeDefense


class Shrunk(ProbeDefense):
    """All weights times 1e-4, which slows down steps of one size alone (test)."""

    deterministic = True

    def immunize(self, model, targets):
        with torch.no_grad():
            model.weight.mul_(1e-4)
        yield 0.0
'''


@pytest.mark.slow
def test_the_red_team_breaks_a_planted_weak_defense_that_holds_off_a_plain_attacker(tmp_path):
    (tmp_path / "weak.py").write_text(WEAK)
    grid = {
        "name": "digits", "track": "probe", "ensemble": "red_team 1",
        "tasks": [{"data": "mnist5k", "framing": "one-vs-rest", "pairs": [[3, 8]]}],
        "protocol": {"steps": 50, "measure_at": [0, 1, 2, 5, 10, 20, 50]},
        "defenses": {"none": {}, "shrunk": {}}, "attackers": {"plain": {"plugin": "adam", "lr": 1e-3}},
    }  # fmt: skip
    suite = {"format": 1, "name": "weak", "version": 1, "title": "Weak", "seeds": 1, "plugins": ["weak.py"]}
    (tmp_path / "weak.yaml").write_text(yaml.safe_dump(suite | {"grids": [grid]}))
    chosen = ["plain", "krylov", "krylov_standardised"]
    result = harness.run(tmp_path / "weak.yaml", attackers=chosen, out=None, store=tmp_path / "store", workers=1)
    end = result.records.query("attacker == 'plain' and step == 50 and metric == 'success' and role == 'harmful'")
    success = end.set_index("defense")["value"]
    assert success["none"] > 0.7 > 0.1 > success["shrunk"]
    cost = result.protection.set_index(["threat_model", "defense"]).loc[("matrix-free methods", "shrunk")]
    assert cost["ratio"] == pytest.approx(1, abs=0.2)
    assert cost["censored"] == 0
