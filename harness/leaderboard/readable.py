"""The standings of a grid as they are read: ranks, the worst case with its attacker, the others beside, flags."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from harness.leaderboard.scores import Cells
from harness.leaderboard.tables import interval, number


def standing(
    of: Cells, stood: pd.DataFrame, short: Mapping[str, str], titles: Mapping[str, str]
) -> tuple[pd.DataFrame, str]:
    """The table and what is said below it. stood: see `standings.standings`. short: the defenses' flags. titles: how
    metrics are written; others by their names."""
    attacked = list(of.scores) != [""]
    metric = str(of.figure["metric"])
    what = titles.get(metric, metric)
    figures = stood[
        [name for name in stood if name in ("worst", "ci_low", "ci_high", "mean") or "attacker" in str(name)]
    ]
    figures = unrounded(of, figures)
    rows = figures.rename(columns={"worst": "value"}).to_dict("records")
    table = pd.DataFrame({"rank": _ranks(stood), "defense": stood["defense"].to_numpy()}, dtype=object)
    table[f"{'worst ' if attacked else ''}{what} [95 %]"] = [
        interval({str(k): v for k, v in row.items()}) for row in rows
    ]
    if attacked:
        table["by"] = stood["by"].to_numpy()
        for attacker in ("mean", *of.scores):
            title = f"{attacker} (weak)" if attacker in of.weak else attacker
            table[title] = figures["mean" if attacker == "mean" else f"attacker {attacker}"].map(number).to_numpy()
    table["flags"] = [short[defense] for defense in stood["defense"]]
    where = ", ".join(str(of.figure[name]) for name in ("role", "policy", "split") if of.figure[name])
    first = (" after the last step: of each task and seed what its strongest attacker leaves, then the mean (where "
             "several are equally strong it is worse than each: chance picks one)")  # fmt: skip
    below = (
        f"{what} ({where}){first if attacked else ''}; a defender wants it {of.better}. In brackets a 95 % t interval "
        "over seeds, on these tasks. A rank is all that the paired comparisons (Holm, 5 %) leave open."
    )
    return _telling(table), below


def unrounded(of: Cells, figures: pd.DataFrame) -> pd.DataFrame:
    """Figures of standings, with zeros where rounding has left something else."""
    figures = figures.astype(float)
    return figures.mask(figures.abs() < 1e-6 * of.resolution, 0.0)


def _ranks(stood: pd.DataFrame) -> list[str]:
    pairs = zip(stood["rank_low"], stood["rank_high"], strict=True)
    return ["" if pd.isna(low) else f"{low}" if low == high else f"{low}–{high}" for low, high in pairs]


def _telling(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns that say nothing."""
    return table[[name for name in table if name == "defense" or (table[name].fillna("") != "").any()]]
