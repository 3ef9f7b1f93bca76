"""The tables of a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import pandas as pd

from harness.leaderboard.tables import number
from harness.tuning.search import Search
from harness.tuning.transfer import LEAST_GAIN, OWN, Member, Transfer

CAPTIONS = {
    "best": "The best settings of each search. Score: mean over tasks, seeds and measured steps of how far the attack "
    "has got so far, on the tuning tasks; a trial counts if the attacked model keeps enough (epsilon).",
    "transfer": f"Score of settings (row: attacker, and the defense against which they were searched; {OWN}: the "
    "suite's) on each defense (column); ×: the attacked model keeps too little.",
    "ensemble": "Settings in greedy order: each most raises the mean over defenses and cells of the best score, and "
    f"raises it by at least {LEAST_GAIN}.",
}


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


def best_table(searches: Sequence[Search]) -> pd.DataFrame:
    """The best trial of each search beside the first, which has the suite's own settings."""
    return pd.DataFrame(
        {
            "grid": one.grid.name,
            "attacker": one.attacker,
            "defense": one.defense,
            "own settings": number(one.trials[0].score),
            "best": number(one.best.score),
            "trial": str(one.best.number),
            "settings": ", ".join(
                f"{name}={number(v) if isinstance(v, float) else v}" for name, v in one.best.settings.items()
            ),
        }
        for one in searches
    )


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


def transfer_matrix(transfers: Sequence[Transfer]) -> pd.DataFrame:
    """The scores of `transfer_table` with a column for each defense."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in transfers:
        place = rows.setdefault((one.attacker, one.tuned_on), {"attacker": one.attacker, "tuned on": one.tuned_on})
        place[one.defense] = number(one.trial.score) + ("" if one.trial.allowed else " ×")
    return pd.DataFrame(rows.values()).fillna("")


def member_table(members: Iterable[Member]) -> pd.DataFrame:
    """The members of an ensemble with the mean of the best score so far."""
    rows = [{**asdict(member), "score": number(member.score)} for member in members]
    return pd.DataFrame(rows, columns=["attacker", "tuned_on", "score"]).rename(columns={"tuned_on": "tuned on"})


def cost(trials: pd.DataFrame) -> str:
    """The sentence on what the trials of `trial_table` cost."""
    return f"{len(trials)} trials took {trials['seconds'].sum():.0f} s inside the attackers."
