"""Transfer: the settings that were searched against one defense, used against the others, and the few that suffice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.leaderboard.searches import OWN
from harness.tuning.search import Rounds, Search
from harness.tuning.trials import Trial

LEAST_GAIN = 0.01
"""The smallest gain in the mean score for which a setting joins an ensemble."""


@dataclass(frozen=True)
class Transfer:
    """Settings of an attacker on a defense. tuned_on: the defense against which they were searched, or `OWN`."""

    attacker: str
    tuned_on: str
    defense: str
    trial: Trial


def run(rounds: Rounds, found: Sequence[Search]) -> list[Transfer]:
    """Run the best settings of each search, and the suite's own, against all defenses of its grid."""
    wanted = []
    for one in found:
        for other in found:
            if (other.grid.name, other.attacker) == (one.grid.name, one.attacker):
                wanted.append((one, one.grid.family(one.defense), other.defense, one.best))
                if other is one:
                    wanted.append((one, OWN, other.defense, one.trials[0]))
    done = rounds.run(
        [
            (one, defense, f"{one.attacker} tuned on {tuned_on}", trial.number, trial.settings)
            for one, tuned_on, defense, trial in wanted
        ]
    )
    return [
        Transfer(one.attacker, tuned_on, one.grid.family(defense), trial)
        for (one, tuned_on, defense, _), trial in zip(wanted, done, strict=True)
    ]


@dataclass(frozen=True)
class Member:
    """A member of an ensemble. score: mean over defenses and cells of the best score of it and the members before."""

    attacker: str
    tuned_on: str
    score: float


def ensemble(transfers: Sequence[Transfer]) -> Iterator[Member]:
    """Choose settings greedily: next the one that most raises the mean over defenses and cells of the best score, as
    long as it raises it by at least `LEAST_GAIN`. A trial that is not allowed on a defense scores 0 there."""
    places = sorted({(one.defense, *cell) for one in transfers for cell in one.trial.cells})
    scores: dict[tuple[str, str], np.ndarray] = {}
    for one in transfers:
        row = scores.setdefault((one.attacker, one.tuned_on), np.zeros(len(places)))
        if one.trial.allowed:
            cells: Mapping[tuple[str, int], float] = one.trial.cells
            for (task, seed), score in cells.items():
                row[places.index((one.defense, task, seed))] = score
    best = np.zeros(len(places))
    while scores:
        means = {name: float(np.maximum(best, row).mean()) for name, row in scores.items()}
        name = max(means, key=lambda name: means[name])  # the first of equal ones
        if not means[name] >= best.mean() + LEAST_GAIN:
            return
        best = np.maximum(best, scores.pop(name))
        yield Member(*name, means[name])
