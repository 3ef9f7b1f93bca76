"""The tables of a search for attackers' settings: made of its trials and transfers as `harness.tuning` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from harness.errors import UsageError
from harness.leaderboard.tables import number

TRIALS, TRANSFER = "trials.csv", "transfer.csv"
"""Files of a search."""
OWN = "own"
"""Name of the suite's own settings in `tuned_on`."""
PLACE = ["grid", "attacker", "defense"]
"""Columns that name a search."""
TRIAL = [*PLACE, "trial", "score", "best", "retention", "allowed", "seconds"]
"""Columns of `trials`; the searched fields follow."""
CAPTIONS = {
    "best": "The best settings of each search. Score: mean over tasks, seeds and measured steps of how far the attack "
    "has got so far, on the tuning tasks; a trial counts if the attacked model keeps enough (epsilon).",
    "transfer": f"Score of settings (row: attacker, and the defense against which they were searched; {OWN}: the "
    "suite's) on each defense (column); ×: the attacked model keeps too little.",
}


@dataclass(frozen=True)
class SearchTables:
    """What a search for settings found.

    name: of the suite. trials: a row for each trial with the columns `TRIAL` and one for each searched field, NaN where
    an attacker has no such field. transfers: a row for each setting on each defense with the columns `attacker`,
    `tuned_on`, `defense`, `score`, `retention` and `allowed`.
    """

    name: str
    trials: pd.DataFrame = field(repr=False)
    transfers: pd.DataFrame = field(repr=False)

    def best(self) -> pd.DataFrame:
        """The best trial of each search beside the first, which has the suite's own settings; texts."""
        rows = []
        for place, tried in self.trials.groupby(PLACE, sort=False):
            allowed = tried[tried["allowed"]].sort_values("score", ascending=False, kind="stable")
            best = tried.iloc[0] if allowed.empty else allowed.iloc[0]
            settings = best.drop(TRIAL).dropna()
            rows.append(
                dict(zip(PLACE, place, strict=True))
                | {"own settings": number(tried["score"].iloc[0]), "best": number(best["score"])}
                | {"trial": str(best["trial"]), "settings": ", ".join(f"{k}={_text(v)}" for k, v in settings.items())}
            )
        return pd.DataFrame(rows)

    def transfer(self) -> pd.DataFrame:
        """The scores of `transfers` as texts, a row for each setting, a column for each defense."""
        texts = self.transfers.assign(
            text=self.transfers["score"].map(number) + self.transfers["allowed"].map({True: "", False: " ×"})
        )
        rows = texts[["attacker", "tuned_on"]].drop_duplicates()
        wide = texts.pivot(index=["attacker", "tuned_on"], columns="defense", values="text")
        wide = wide.loc[list(rows.itertuples(index=False, name=None)), texts["defense"].unique()].fillna("")
        return wide.rename_axis(columns=None).reset_index().rename(columns={"tuned_on": "tuned on"})

    def cost(self) -> str:
        """The sentence on what the trials cost."""
        return f"{len(self.trials)} trials took {self.trials['seconds'].sum():.0f} s inside the attackers."


def below(folder: Path) -> Iterator[SearchTables]:
    """Read the searches that lie in `folder` or below it; each is called by its folder's name. Raises `UsageError` for
    files of a search that cannot be read."""
    for path in sorted(folder.rglob(TRIALS)):
        try:
            trials, transfers = pd.read_csv(path), pd.read_csv(path.with_name(TRANSFER))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path.parent} holds no search that can be read: {error}") from None
        for missing in sorted({*TRIAL} - {*trials} | {"attacker", "tuned_on", "defense", "score"} - {*transfers}):
            raise UsageError(f"{path.parent} holds no search that can be read: it has no column '{missing}'")
        yield SearchTables(path.parent.name, trials, transfers)


def _text(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
