"""The tables of a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import pandas as pd

from harness.leaderboard.tables import number
from harness.tuning.search import Search
from harness.tuning.transfer import LEAST_GAIN, Member, Transfer

ENSEMBLE = (
    "Settings in greedy order: each most raises the mean over defenses and cells of the best score, and raises it by "
    f"at least {LEAST_GAIN}."
)
"""Caption of `member_table`."""


def trial_table(searches: Sequence[Search]) -> pd.DataFrame:
    """A row for each trial: its grid, attacker and defense, number, score, best score so far, retention, whether it is
    allowed, seconds, and the searched fields."""
    rows = [
        {
            "grid": one.grid.name, "attacker": one.attacker, "defense": one.defense, "trial": trial.number,
            "score": trial.score, "best": best, "retention": trial.retention, "allowed": trial.allowed,
            "seconds": trial.seconds, **trial.settings,
        }
        for one in searches
        for trial, best in zip(
            one.trials, pd.Series([t.score if t.allowed else None for t in one.trials], dtype=float).cummax().ffill(),
            strict=True,
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def transfer_table(transfers: Iterable[Transfer]) -> pd.DataFrame:
    """A row for each setting on each defense: attacker, tuned on, defense, score, retention, and whether it is
    allowed."""
    return pd.DataFrame(
        {
            "attacker": one.attacker, "tuned_on": one.tuned_on, "defense": one.defense, "score": one.trial.score,
            "retention": one.trial.retention, "allowed": one.trial.allowed,
        }
        for one in transfers
    )  # fmt: skip


def member_table(members: Iterable[Member]) -> pd.DataFrame:
    """The members of an ensemble with the mean of the best score so far."""
    rows = [{**asdict(member), "score": number(member.score)} for member in members]
    return pd.DataFrame(rows, columns=["attacker", "tuned_on", "score"]).rename(columns={"tuned_on": "tuned on"})
