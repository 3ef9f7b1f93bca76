"""The readable table of this track: a row for each defense, as the paper's Table 3."""

from __future__ import annotations

import pandas as pd

from harness.leaderboard.tables import interval, number, pick, published, value
from harness.ranking import MEAN

VARIANTS = ("range", "centred", "training", "itself")
"""Variants of RIR besides `floor`."""
CAPTION = (
    "RIR = (i)/(ii) under the paper's κ policy `floor`, with a 95 % t interval for other seeds; range, centred, "
    "training, itself: its other variants (`immunebench show metric feature_conditioning`). published: the paper's "
    "values of Table 3, on other networks and data, with the mean over its tasks. benign: held-out accuracy with the "
    "released head; refitted, other: of a new head, on the benign and on a third task. area, RFD: of the attacks, mean "
    "over attackers; a negative RFD is a faster attack. s, MiB: run cost of the defense."
)


def table(board: pd.DataFrame) -> pd.DataFrame:
    """The readable table of a grid: texts, without empty columns; `attrs["caption"]` explains the columns.

    board: the grid's board in long form (see `harness.leaderboard.long_form`).
    """
    rows = [{"defense": defense, **_row(cell)} for defense, cell in board.groupby("defense", sort=False)]
    wide = pd.DataFrame(rows, dtype=object)
    wide = wide[[name for name in wide if (wide[name] != "").any()]]
    wide.attrs["caption"] = CAPTION
    return wide


def _row(cell: pd.DataFrame) -> dict[str, str]:
    released, attacked = cell[cell["attacker"].isna()], cell[cell["attacker"].notna()]
    attacked = attacked[attacked["attacker"] == MEAN] if (attacked["attacker"] == MEAN).any() else attacked
    rir = pick(released, "rir", variant="floor")
    texts = {"RIR [95 %]": interval(rir), "published": published(rir)}
    for title, role in (("(i)", "harmful"), ("(ii)", "benign")):
        part = pick(released, "kappa_ratio", variant="floor", role=role)
        texts |= {title: number(part.get("value")), f"published {title}": published(part)}
    texts |= {variant: value(released, "rir", variant=variant) for variant in VARIANTS}
    benign = pick(released, "retention", role="benign", variant="released")
    return texts | {
        "benign": interval(benign),
        "published benign": published(benign),
        "refitted": value(released, "retention", role="benign", variant="refitted"),
        "other": value(released, "retention", role="other", variant="refitted"),
        "area": value(attacked, "area"),
        "RFD %": value(attacked, "rfd"),
        "s": value(released, "seconds"),
        "MiB": value(released, "peak_mb"),
    }
