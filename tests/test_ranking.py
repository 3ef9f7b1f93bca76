"""Which records a selector means."""

import pytest
from pydantic import ValidationError

from harness.leaderboard.scores import selected
from harness.ranking import Ranking, ThreatModel, covering
from harness.records import frame

ASR = Ranking(
    value={"metric": "asr", "role": "harmful"},
    better="lower",
    broken=0.8,
    retention=[{"metric": "retention"}, {"metric": "score", "split": None}],
)


def selects(selector, **changes):
    """Whether a selector means a record."""
    record = {"metric": "asr", "role": "harmful", "variant": "classifier", "split": None, "concept": None, **changes}
    return bool(selected(frame([record]), selector).item())


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({}, True),
        ({"variant": "dino"}, True),  # not named by the selector
        ({"step": 60}, True),
        ({"metric": "msgr"}, False),
        ({"role": "benign"}, False),
        ({"role": None}, False),
        ({"concept": "marvo"}, False),  # a part of the task
    ],
    ids=str,
)
def test_a_selector_means_records_of_whole_tasks_with_its_coordinates(changes, meant):
    assert selects(ASR.value, **changes) is meant


def test_none_means_an_empty_coordinate():
    _, score = ASR.retention
    assert selects(score, metric="score")
    assert not selects(score, metric="score", split="heldout")


def test_a_ranking_round_trips_and_refuses_other_coordinates():
    assert Ranking.model_validate_json(ASR.model_dump_json()) == ASR
    with pytest.raises(ValidationError, match="defense"):
        Ranking(value={"metric": "asr", "defense": "mima"}, better="lower")
    with pytest.raises(ValidationError, match="finite"):
        Ranking(value={"metric": "asr"}, better="lower", broken=float("nan"))


def test_every_attacker_is_in_a_threat_model():
    few, many = ThreatModel(attackers=["lora", "lora", "words"], share=0.5), ThreatModel(attackers=["full"])
    covered = covering({"few": few, "many": many}, ["lora", "new"])
    expected = {"few": ThreatModel(attackers=["lora"], share=0.5), "other attackers": ThreatModel(attackers=["new"])}
    assert covered == expected
    assert covering(covered, ["new"]) == {"all attackers": ThreatModel(attackers=["new"])}
