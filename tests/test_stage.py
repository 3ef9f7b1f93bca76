"""Stages: what a key depends on, which stages are parents, and that jobs reach workers."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.plan import repetitions
from harness.stage import Folders, Located, Stage, digest, seed_of, unique
from tests.runs import TRACK, plan
from tests.stages import Adapt, Data, Second, spec


def test_keys_are_pinned(monkeypatch):
    """A key that changes makes every store useless: raise a stage's version instead."""
    monkeypatch.setattr(Adapt, "code", None)  # as of a stage of the harness
    job = Adapt(plugin=spec(), seed=7)
    assert job.key == "e0d395a7a2cdfaa7da04cfdf06fab274ed40a0637e75c3d78dd344de42f75c37"
    assert Adapt(model=job).key == "41c6227585593366dbe8b0f02ccc80b71f70f2152636df039fab991253c767a5"
    assert seed_of("attack", "P3-H8", "harmful", 1) == 7628904211744655594


@pytest.mark.parametrize(
    "changes",
    [
        {"data": Data(name="e")},
        {"steps": 11},
        {"plugin": spec(params={"lr": 0.02})},
        {"plugin": spec(source="1" * 64)},
        {"plugin": spec(name="adam2")},
        {"plugin": None},
        {"seed": 8},
        {"seed": None},
        {"weights": Located("weights", "1" * 64)},
        {"model": Adapt()},
        {"others": (Adapt(),)},
        {"sides": {"left": Adapt()}},
    ],
    ids=str,
)
def test_every_field_changes_the_key(changes):
    fields = {"plugin": spec(), "seed": 7}
    assert Adapt(**fields | changes).key != Adapt(**fields).key


def test_the_code_of_a_stage_outside_the_harness_changes_the_key(monkeypatch):
    key = Second().key
    monkeypatch.setattr(Second, "code", "0" * 64)
    assert Second().key != key


def test_track_name_and_version_change_the_key():
    class Adapt(Stage, track="test", version=2):
        steps: int = 10

    class Third(Stage, track="elsewhere", version=2):
        steps: int = 10

    Third.name = "second"
    assert len({Adapt().key, Second().key, Third().key}) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"plugin": spec()}, {"plugin": spec(module="elsewhere", file="/a.py", attribute="B", call="B()")}),
        ({"plugin": spec()}, {"plugin": spec(deterministic=True, control=True, package="p 1")}),
        ({"weights": Located("/here/weights", "1" * 64)}, {"weights": Located("/there/other", "1" * 64)}),
        ({"sides": {"a": Adapt(), "b": Second()}}, {"sides": {"b": Second(), "a": Adapt()}}),
    ],
    ids=["where a plugin lies", "what describes a plugin", "where a file lies", "the order of a mapping"],
)
def test_nothing_else_changes_the_key(one, other):
    assert Adapt(**one).key == Adapt(**other).key


def test_transient_stages_and_gpu_stages_have_the_key_of_others():
    key = Second().key
    Second.transient, Second.gpu = True, True
    try:
        assert Second().key == key
    finally:
        del Second.transient, Second.gpu


@pytest.mark.parametrize("steps", [float("nan"), {1, 2}, object()], ids=["nan", "a set", "an object"])
def test_values_without_a_json_form_are_refused(steps):
    with pytest.raises((ValueError, TypeError), match=r"not JSON compliant|a stage's field cannot hold"):
        Adapt(steps=steps).key  # noqa: B018 (a property, which raises)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()))
def test_a_digest_ignores_the_order_of_an_object_only(value):
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest(value) == digest(json.loads(json.dumps(value)))
    assert digest(value) != digest({**value, "more": 1, "": 0})


def test_parents_are_found_in_fields_tuples_and_mappings_once():
    first, second, third = Adapt(steps=1), Adapt(steps=2), Second()
    job = Adapt(model=first, others=(second, first), sides={"left": third, "right": second})
    assert [parent.key for parent in job.parents] == [first.key, second.key, third.key]
    last = Adapt(model=job, others=(third,))
    assert list(unique([last])) == [first.key, second.key, third.key, job.key, last.key]  # parents first
    folders = Folders({first.key: Path("a")})
    assert folders[Adapt(steps=1)] == Path("a")


def test_a_job_is_random_if_an_ancestor_is():
    drawn = Adapt(seed=1)
    assert Adapt(others=(Adapt(model=drawn),)).random
    assert not Adapt(others=(Adapt(model=Adapt()),)).random


def test_a_job_of_a_plugin_file_reaches_a_fresh_process(tmp_path):
    """The class of the stage, of its task and of its parents are in a plugin file that the process has not imported."""
    jobs = list(plan().jobs.values())
    assert any(job.parents for job in jobs)
    (tmp_path / "jobs.pickle").write_bytes(pickle.dumps(jobs))
    code = (
        "import pickle, json; from pathlib import Path;"
        f"jobs = pickle.loads(Path({str(tmp_path / 'jobs.pickle')!r}).read_bytes());"
        "print(json.dumps([[job.key, [parent.key for parent in job.parents], type(job).__name__] for job in jobs]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        [job.key, [parent.key for parent in job.parents], type(job).__name__] for job in jobs
    ]


def test_a_job_whose_plugin_file_is_gone_says_so(tmp_path):
    track = tmp_path / "gone.py"
    track.write_text(TRACK.read_text())
    suite = tmp_path / "suite.yaml"
    suite.write_text((TRACK.parent / "two_layer.yaml").read_text().replace("two_layer.py", "gone.py"))
    data = pickle.dumps(next(iter(plan(suite).jobs.values())))
    track.unlink()
    code = f"import pickle; pickle.loads({data!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{UsageError.__name__}: cannot import plugin {track}" in done.stderr


def test_repetitions_share_no_draw_and_defenses_meet_the_same_attack():
    from harness.registry import installed

    made = plan(seeds=3)
    (grid,) = made.suite.grids
    track = installed().with_files(made.suite.plugins).track(grid.track)
    all_repetitions = list(repetitions(grid, track))
    assert len(all_repetitions) == 2 * 3
    draws = [repetition.draw("attacker", side) for repetition in all_repetitions for side in ("harmful", "benign")]
    assert len(set(draws)) == len(draws)
    first = all_repetitions[0]
    assert first.draw("attacker") != first.draw("defense")
    random, plain = spec(deterministic=False), spec(deterministic=True)
    assert first.seed_for(random) == first.draw("attacker")
    assert first.seed_for(plain) is None
    for repetition in all_repetitions:  # an attacker's seed does not depend on the defense
        models = [track.immunize(repetition, defense) for defense in grid.defenses.values()]
        assert len({model.key for model in models}) == 2
        seeds = {attack.seed for model in models for attack in track.attacks(repetition, model, random)}
        assert seeds == {repetition.seed_for(random)}
