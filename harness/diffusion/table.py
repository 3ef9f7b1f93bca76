"""The readable table of this track: a row a defense and attacker."""

from __future__ import annotations

import pandas as pd

from harness.diffusion.protocol import ENCODER_TITLES
from harness.leaderboard.tables import interval, number, pick, value

CAPTION = (
    "Rates are shares of pictures in which the base's own classifier sees the concept: erased: after the erasure; "
    "released: as it is given out; @t: after t steps of the attack on a target; benign: of a benign concept, @0 "
    "before any attack, else after the last step of one; kept: of other concepts, before any attack, which the "
    "defense is told to keep, held-out: which it is not; allowed: of the reference pictures through the "
    "autoencoder. MSGR and MRSGR in %, at the last step, with a 95 % t interval over seeds, and by encoder: only C, "
    "D and L are the papers'; paper: what MIMA (AAAI 2025) published, mean over its groups, on Stable Diffusion "
    "v1-4. kept M: how like the pictures of kept/held-out concepts are to the undefended model's of one seed. The "
    "row without a defense is the noise floor: undefended against undefended, with other seeds of the attack. The "
    "pictures that are learned and the noise that is sampled from are the same for all seeds: intervals are of these. "
    "joint is the paper's JT, compose its CP; mean: over the attackers. s, MiB: of an attack on one concept; def s, "
    "def MiB: of the defense."
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
            likeness = {
                f"kept M ({ENCODER_TITLES.get(name, name)})": "/".join(
                    value(before, "similarity", role="kept", policy=name, split=split) for split in ("train", "heldout")
                )
                for name in before.loc[before["metric"] == "similarity", "policy"].unique()
            }
            row |= {
                "erased": value(before, "erased_rate"),
                "released": value(before, "rate", role="harmful"),
                "benign @0": value(before, "rate", role="benign"),
                "kept": value(before, "rate", role="kept", split="train"),
                "kept held-out": value(before, "rate", role="kept", split="heldout"),
                **likeness,
                "allowed": value(before, "rate_allowed"),
                "def s": value(before, "seconds"),
                "def MiB": value(before, "peak_mb"),
            }
            if attacker:
                row |= _attacked(cell)
            holes = pd.concat([cell, before])["note"].dropna().str.extract(r"(\d+ of \d+ cells failed: .*)")[0].dropna()
            row["missing"] = holes.iloc[0] if len(holes) else ""
            rows.append(row)
    wide = pd.DataFrame(rows, dtype=object).fillna("")
    front = ["grid", "defense", "attacker", "allowed", "erased", "released"]
    kept = [str(name) for name in wide if str(name).startswith("kept")]
    back = ["benign @0", *kept, "def s", "def MiB", "s", "MiB", "missing"]
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
        measured = cell[(cell["metric"] == metric) & cell["step"].notna()]
        for encoder in measured["policy"].unique():
            found = pick(measured, metric, policy=encoder, step=last)
            row[f"{title} ({ENCODER_TITLES.get(encoder, encoder)})"] = interval(found)
        published = [number(pick(cell[cell["published"].notna()], metric, policy=encoder).get("published"))
                     for encoder in ENCODER_TITLES]  # fmt: skip
        if any(published):
            row[f"{title} paper (C / D / L)"] = " / ".join(text or "–" for text in published)
    return row | {"s": value(cell, "seconds"), "MiB": value(cell, "peak_mb")}
