"""The readable table of this track: a row for each defense and attacker."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.diffusion.protocol import ENCODER_TITLES
from harness.leaderboard.tables import interval, pick, published, value

CAPTION = (
    "Share of pictures in which the concept classifier sees the concept: reachable: reference pictures, encoded and "
    "decoded; erased: targets after the erasure; released: targets by the released model; @t: targets after t steps of"
    " an attack; benign @0, benign: a benign concept before and after an attack on it; kept, kept held-out: further "
    "concepts that a defense's captions may name, never name; kept composed: some of them with another concept. MSGR, "
    "MRSGR: in %, at the last step, by encoder (C, D and L: the papers'), with a 95 % t interval for other seeds (†: "
    "undefined in some cells, because the denominator is near zero). kept M: similarity of kept/held-out pictures to "
    "the undefended model's. s, MiB: run cost of one attack; def s, def MiB: run cost of the defense. The undefended "
    "row is the noise floor: undefended against undefended under other draws of the attacker."
)


def table(board: pd.DataFrame) -> pd.DataFrame:
    """The readable table of `board`, a board in long form (see `harness.leaderboard.long_form`): texts, without empty
    columns; `attrs["caption"]` explains the columns."""
    board = board[board["concept"].isna()]
    rows = [row for _, part in board.groupby(["grid", "defense"], sort=False) for row in _rows(part)]
    wide = pd.DataFrame(rows, dtype=object).fillna("")
    front = ["grid", "defense", "attacker", "reachable", "erased", "released"]
    kept = [str(name) for name in wide if str(name).startswith("kept")]
    back = ["benign @0", *kept, "def s", "def MiB", "s", "MiB"]
    middle = [name for name in wide if name not in front + back]
    wide = wide[[name for name in front + middle + back if name in wide]]
    wide = wide[[name for name in wide if (wide[name] != "").any()]]
    wide.attrs["caption"] = CAPTION
    return wide


def _rows(part: pd.DataFrame) -> Iterator[dict[str, str]]:
    """The rows of one defense: one for each attacker, or a single one in a grid without attackers."""
    released = _released(part[part["attacker"].isna()])
    for attacker in list(part["attacker"].dropna().unique()) or [""]:
        attacked = part[part["attacker"] == attacker]
        row = {"grid": str(part["grid"].iloc[0]), "defense": str(part["defense"].iloc[0]), "attacker": str(attacker)}
        yield row | released | (_attacked(attacked) if attacker else {})


def _released(board: pd.DataFrame) -> dict[str, str]:
    similarity = {
        f"kept M ({ENCODER_TITLES.get(encoder, encoder)})": "/".join(
            value(board, "similarity", role="kept", variant=encoder, split=split) for split in ("train", "heldout")
        )
        for encoder in board.loc[board["metric"] == "similarity", "variant"].unique()
    }
    return {
        "reachable": value(board, "reachable_asr"),
        "erased": value(board, "erased_asr"),
        "released": value(board, "asr"),
        "benign @0": value(board, "retention", role="benign"),
        "kept": value(board, "retention", role="kept", split="train"),
        "kept held-out": value(board, "retention", role="kept", split="heldout"),
        "kept composed": value(board, "retention", role="composition"),
        **similarity,
        "def s": value(board, "seconds"),
        "def MiB": value(board, "peak_mb"),
    }


def _attacked(board: pd.DataFrame) -> dict[str, str]:
    rates = board[(board["metric"] == "asr") & board["step"].notna()].sort_values("step")
    row = {f"@{step}": value(rates, "asr", step=step) for step in rates["step"]}
    last = board["step"].max()
    row["benign"] = value(board, "retention", role="benign", step=last)
    for metric, title in (("msgr", "MSGR"), ("mrsgr", "MRSGR")):
        measured = board[(board["metric"] == metric) & board["step"].notna()]
        for encoder in measured["variant"].unique():
            last_value = pick(measured, metric, variant=encoder, step=last)
            mark = " †" if "denominator" in str(last_value.get("flag")).split() else ""
            row[f"{title} ({ENCODER_TITLES.get(encoder, encoder)})"] = interval(last_value) + mark
        papers = board[board["published"].notna()]
        texts = [published(pick(papers, metric, variant=encoder)) for encoder in ENCODER_TITLES]
        if any(texts):
            row[f"{title} paper (C / D / L)"] = " / ".join(text or "–" for text in texts)
    return row | {"s": value(board, "seconds"), "MiB": value(board, "peak_mb")}
