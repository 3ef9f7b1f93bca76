"""The readable table of this track: a row a defense and attacker."""

from __future__ import annotations

import pandas as pd

from harness.diffusion.protocol import ENCODER_TITLES
from harness.tables import interval, pick, value

CAPTION = (
    "Rates are shares of pictures in which the base's own classifier sees the concept: erased: after the erasure; "
    "released: as it is given out; @t: after t steps of the attack on a target; benign: after the last on a benign "
    "concept; kept: of all other concepts, before any attack; allowed: of the reference pictures through the "
    "autoencoder. MSGR and MRSGR in %, at the last step, with a 95 % t interval over seeds, and by encoder: only C, D "
    "and L are the papers'. The row without a defense is the noise floor: undefended against undefended, with other "
    "seeds of the attack. s, MiB: of an attack on one concept; def s: the defense's own seconds."
)


def table(board: pd.DataFrame) -> pd.DataFrame:
    """The wide table of a long-form board."""
    board = board[board["concept"].isna()]
    rows = []
    for (grid, defense), of in board.groupby(["grid", "defense"], sort=False):
        before = of[of["attacker"].isna()]
        attackers = list(of["attacker"].dropna().unique()) or [None]
        for attacker in attackers:
            cell = of[of["attacker"] == attacker] if attacker else before
            row = {"grid": grid, "defense": defense, "attacker": attacker or ""}
            row |= {
                "erased": value(before, "erased_rate"),
                "released": value(before, "rate", role="harmful"),
                "kept": value(before, "rate", role="kept"),
                "allowed": value(before, "rate_allowed"),
                "def s": value(before, "seconds"),
            }
            if attacker:
                row |= _attacked(cell)
            holes = pd.concat([cell, before])["note"].dropna().str.extract(r"(\d+ of \d+ cells failed: .*)")[0].dropna()
            row["missing"] = holes.iloc[0] if len(holes) else ""
            rows.append(row)
    wide = pd.DataFrame(rows, dtype=object).fillna("")
    front = ["grid", "defense", "attacker", "allowed", "erased", "released"]
    back = ["kept", "def s", "s", "MiB", "missing"]
    middle = [name for name in wide if name not in front + back]
    wide = wide[[name for name in front + middle + back if name in wide]]
    wide = wide[[name for name in wide if (wide[name] != "").any()]]
    wide.attrs["caption"] = CAPTION
    return wide


def _attacked(cell: pd.DataFrame) -> dict[str, str]:
    row = {}
    rates = cell[(cell["metric"] == "rate") & (cell["role"] == "harmful")].sort_values("step")
    for step in rates["step"]:
        row[f"@{step}"] = value(rates, "rate", step=step)
    last = cell["step"].max()
    row["benign"] = value(cell, "rate", role="benign", step=last)
    for metric, title in (("msgr", "MSGR"), ("mrsgr", "MRSGR")):
        for encoder in cell.loc[cell["metric"] == metric, "policy"].unique():
            found = pick(cell, metric, policy=encoder, step=last)
            row[f"{title} ({ENCODER_TITLES.get(encoder, encoder)})"] = interval(found)
    return row | {"s": value(cell, "seconds"), "MiB": value(cell, "peak_mb")}
