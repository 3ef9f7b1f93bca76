"""Tuned attackers: the search, its files, and suites that use them."""

import json
import math

import pandas as pd
import pytest
import yaml

from harness.errors import UsageError
from harness.plugin import Attacker
from harness.selection import Selection
from harness.store import Store
from harness.suite_reader import load
from harness.tuning.api import tune
from harness.tuning.search import Search, searches
from harness.tuning.space import Range, search_space
from harness.tuning.transfer import Transfer, ensemble
from harness.tuning.trials import Trial
from tests.helpers import immunebench

ATTACKER = '''
"""Gradient descent whose step size can be searched."""
from pydantic import Field
from harness.probe import ProbeAttacker


class Tunable(ProbeAttacker):
    """Gradient descent with one step size (test)."""

    deterministic = True
    lr: float = Field(1e-3, gt=0, json_schema_extra={"search": {"low": 1e-5, "high": 1.0, "log": True}})

    def adapt(self, model, data):
        while True:
            loss, gradient = model.gradient(data)
            model.weight.data.sub_(gradient, alpha=self.lr)
            yield loss.clamp(max=1e9)
'''
SUITE = {
    "format": 1, "name": "tunable", "version": 1, "title": "One digit pair", "seeds": 2, "plugins": ["tunable.py"],
    "grids": [{
        "name": "digits", "track": "probe",
        "tasks": [{"data": "mnist5k", "framing": "one-vs-rest", "pairs": [[3, 8]]}],
        "protocol": {"steps": 5}, "defenses": {"none": {}, "whitening": {}}, "attackers": {"tunable": {}},
        "tuning": {"tasks": [{"data": "mnist5k", "framing": "one-vs-rest", "pairs": [[0, 1]]}], "seeds": [101]},
    }],
}  # fmt: skip


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "tunable.py").write_text(ATTACKER)
    path = tmp_path / "tunable.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "tunable.py").write_text(ATTACKER)
    (folder / "tunable.yaml").write_text(yaml.safe_dump(SUITE))
    tune(folder / "tunable.yaml", trials=4, out=folder / "out", store=folder / "store", workers=1)
    return folder


@pytest.mark.slow
def test_a_search_that_was_stopped_continues_with_the_same_trials(tuned):
    """The first two of four trials in an empty store, then all: as without the stop, and nothing else is computed."""
    place = {"out": tuned / "again", "store": tuned / "other", "workers": 1}
    first = tune(tuned / "tunable.yaml", trials=2, **place)
    before = set(Store(tuned / "other").keys())
    again = tune(tuned / "tunable.yaml", trials=4, **place)
    whole = pd.read_csv(tuned / "out" / "trials.csv")
    columns = ["defense", "trial", "score", "best", "lr"]
    pd.testing.assert_frame_equal(again.trials[columns], whole[columns])
    head = whole[whole["trial"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(first.trials[columns], head[columns])
    assert set(Store(tuned / "other").keys()) == before | set(Store(tuned / "store").keys())


def test_a_tuned_attack_is_never_worse_than_the_suites_own(tuned):
    trials = pd.read_csv(tuned / "out" / "trials.csv").groupby("defense")
    assert (trials["best"].last() >= trials["score"].first()).all()
    assert (trials["lr"].first() == 1e-3).all()


def test_no_job_runs_twice_and_nothing_transient_is_left(tuned):
    store = Store(tuned / "store")
    keys = [json.loads(line)["key"] for line in (store.root / "ledger.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys))
    assert not any(store.manifest(key)["transient"] for key in set(keys) if store.has(key))


@pytest.mark.slow
def test_a_row_has_the_settings_that_were_searched_for_each_defense(tuned):
    settings = yaml.safe_load((tuned / "out" / "tuned.yaml").read_text())["attackers"]["tunable"]
    content = yaml.safe_load((tuned / "tunable.yaml").read_text())
    content["grids"][0]["attackers"] = {
        "tunable": {"tuned": "out/tuned.yaml"},
        "from_none": {"plugin": "tunable", "tuned": "out/tuned.yaml", "tuned_on": "none"},
        "own": {"plugin": "tunable", "tuned": "out/tuned.yaml", "tuned_on": "own"},
    }
    (tuned / "uses.yaml").write_text(yaml.safe_dump(content))
    (grid,) = load(tuned / "uses.yaml").grids
    assert settings.pop("own")["lr"] == 1e-3
    for defense, fields in settings.items():
        assert grid.attacker("tunable", defense).params["lr"] == fields["lr"]
        assert grid.attacker("from_none", defense).params["lr"] == settings["none"]["lr"]
        assert grid.attacker("own", defense).params["lr"] == 1e-3
    done = immunebench("run", tuned / "uses.yaml", "--out", tuned / "run", "--workers", "1")
    assert done.returncode == 0, done.stderr
    with pytest.raises(UsageError, match="the settings of this row are tuned"):
        load(tuned / "uses.yaml", Selection.of(settings=["attackers.tunable.lr=1"]))
    content["grids"][0]["defenses"]["rank_one"] = {}
    (tuned / "uses.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="no settings of 'tunable' against 'rank_one'"):
        load(tuned / "uses.yaml")


@pytest.mark.slow
def test_the_command_prints_the_best_trials(tuned):
    done = immunebench("tune", tuned / "tunable.yaml", "--trials", "1", "--out", tuned / "cli", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "| digits | tunable" in done.stdout
    assert (tuned / "cli" / "trials.png").stat().st_size > 0
    assert (tuned / "cli" / "run.json.gz").stat().st_size > 0


def test_settings_are_not_searched_on_what_is_reported(suite):
    content = yaml.safe_load(suite.read_text())
    content["grids"][0]["tuning"] = {"tasks": content["grids"][0]["tasks"], "seeds": [2, 101]}
    suite.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="task 'P3-H8' is reported with seed 2: search settings on other"):
        load(suite)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": None}, "has no grid with `tuning` tasks and seeds"),
    ],
)
def test_a_suite_without_what_a_search_needs_is_refused(suite, tmp_path, changes, message):
    content = yaml.safe_load(suite.read_text())
    content["grids"][0] |= changes
    suite.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=message):
        tune(suite, trials=1, out=tmp_path / "out", workers=1)


def test_a_trial_that_destroys_what_is_retained_is_not_the_best(suite):
    one = next(iter(searches(load(suite, tuning=True), epsilon=0.1)))
    for number, (score, retention) in enumerate([(0.3, 1.0), (0.9, 0.85), (0.5, 0.95), (math.nan, 1.0)]):
        asked, settings = one.ask()
        allowed = not math.isnan(score) and retention >= 0.9
        one.tell(asked, Trial(number, settings, score, retention, 1.0, allowed))
    assert one.best.number == 2


def test_search_spaces():
    assert Range(low=1, high=10).choices == []
    for wrong in ({}, {"low": 1}, {"low": 2, "high": 1}, {"low": 1, "high": 2, "choices": [1]}):
        with pytest.raises(ValueError, match="give low and high"):
            Range(**wrong)
    assert search_space(Attacker) == {}
    assert Search.__doc__


def test_a_setting_of_the_suite_outside_the_search_space_is_the_first_trial(suite):
    content = yaml.safe_load(suite.read_text())
    content["grids"][0]["attackers"]["tunable"] = {"lr": 7.0}
    suite.write_text(yaml.safe_dump(content))
    one = next(iter(searches(load(suite, tuning=True), epsilon=0.1)))
    for number in range(3):
        asked, settings = one.ask()
        one.tell(asked, Trial(number, settings, 0.5, 1.0, 1.0, True))
    assert [trial.settings["lr"] <= 1 for trial in one.trials] == [False, True, True]
    assert one.best.number == 0


def test_two_grids_do_not_search_the_same_settings(suite):
    content = yaml.safe_load(suite.read_text())
    content["grids"].append({**content["grids"][0], "name": "more"})
    suite.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="grids 'digits' and 'more' would both search settings of 'tunable'"):
        searches(load(suite, tuning=True), epsilon=0.1)


def test_settings_are_transferred_to_every_defense(tuned):
    """The settings of a defense on itself score as its best trial; the suite's own score as the first trial."""
    trials = pd.read_csv(tuned / "out" / "trials.csv").groupby("defense")
    scores = pd.read_csv(tuned / "out" / "transfer.csv").set_index(["tuned_on", "defense"])["score"]
    assert sorted(scores.index) == sorted((a, b) for a in ("own", "none", "whitening") for b in ("none", "whitening"))
    for defense, rows in trials:
        assert scores[defense, defense] == rows["best"].iloc[-1]
        assert scores["own", defense] == rows["score"].iloc[0]


def test_an_ensemble_is_chosen_greedily_and_only_from_what_is_allowed():
    """Three settings on two defenses of one cell each: a is best alone, c is not allowed where it is best."""

    def on(tuned_on, defense, score, allowed=True):
        return Transfer("lora", tuned_on, defense, Trial(0, {}, score, 1.0, 1.0, allowed, {("t", 1): score}))

    given = [
        on("a", "x", 0.9), on("a", "y", 0.5), on("b", "x", 0.1), on("b", "y", 0.8),
        on("c", "x", 0.905), on("c", "y", 1.0, allowed=False),
    ]  # fmt: skip
    assert [(member.tuned_on, member.score) for member in ensemble(given)] == [
        ("a", pytest.approx(0.7)), ("b", pytest.approx(0.85)),
    ]  # fmt: skip
    assert list(ensemble([on("a", "x", math.nan, allowed=False)])) == []
