"""The readable table of this track: a row a defense, the RIR beside what attackers that try hard leave of it."""

from __future__ import annotations

import pandas as pd

CAPTION = (
    "RIR = (i)/(ii), by κ policy (floor: the paper's; range: over the numerical rank), on training rows unless said "
    "otherwise, geometric mean over tasks with a 95 % t interval over seeds; RIR published: the paper's. "
    "(a)(b)(c): share of cells in which the paper's definition of an immunized model holds after scale "
    "normalisation, under range. Gap: what is left of the harmful task's loss gap after the last step, by gradient "
    "descent with exact line search and by the attacker that leaves least. Slow-down: steps to the stated gap "
    "against the undefended model (≥: not reached). Score: held-out accuracy or R² of the harmful task after that "
    "strongest attack, in parentheses undefended. Seconds: the defense's own."
)
GRADIENT_DESCENT = "gradient_descent"


def table(board: pd.DataFrame) -> pd.DataFrame:
    """The wide table of a long-form board."""
    rows = []
    for (grid, defense), cell in board.groupby(["grid", "defense"], sort=False):
        row = {"grid": grid, "defense": defense}
        if cell["metric"].isna().all():
            rows.append(row | {"RIR floor [95 %]": cell["note"].iloc[0]})
            continue
        row |= {
            "RIR floor [95 %]": _interval(_pick(cell, "rir", policy="floor", split="train")),
            "published": _number(_pick(cell, "rir", policy="floor", split="train").get("published")),
            "(i)": _value(cell, "kappa_ratio", role="harmful", policy="floor", split="train"),
            "(ii)": _value(cell, "kappa_ratio", role="benign", policy="floor", split="train"),
            "RIR range": _value(cell, "rir", policy="range", split="train"),
            "RIR held-out": _value(cell, "rir", policy="floor", split="heldout"),
            "(a)(b)(c)": " ".join(_value(cell, f"definition_{part}", policy="range", split="train") for part in "abc"),
        }
        row |= _attacked(cell, board[(board["grid"] == grid) & (board["defense"] == "none")])
        row["seconds"] = _value(cell, "seconds")
        holes = cell["note"].dropna().str.extract(r"(\d+ of \d+ cells failed: [^;]*)")[0].dropna()
        row["holes"] = holes.iloc[0] if len(holes) else ""
        rows.append(row)
    wide = pd.DataFrame(rows).fillna("")
    if "holes" in wide and not wide["holes"].any():
        wide = wide.drop(columns="holes")
    wide.attrs["caption"] = CAPTION
    return wide


def _attacked(cell: pd.DataFrame, undefended: pd.DataFrame) -> dict[str, str]:
    gaps = cell[(cell["metric"] == "loss_gap") & (cell["role"] == "harmful")]
    if gaps.empty:
        return {}
    last = gaps[gaps["step"] == gaps["step"].max()].dropna(subset=["value"])
    if last.empty:
        return {}
    # Rounding can carry a finished attack below the optimum; that is a gap of nothing.
    strongest = str(last.loc[last["value"].abs().idxmin(), "attacker"])
    step = int(gaps["step"].max())
    gd = last[last["attacker"] == GRADIENT_DESCENT]
    at = {"role": "harmful", "split": "heldout", "step": step, "attacker": strongest}
    score = _value(cell, "score", **at)
    base = _value(undefended, "score", **at)
    return {
        f"gap GD @{step}": _number(gd["value"].iloc[0]) if len(gd) else "",
        "gap strongest": f"{_number(last['value'].abs().min())} {strongest}",
        "slow-down GD": _slow(cell, GRADIENT_DESCENT),
        "slow-down strongest": _slow(cell, strongest),
        "score": f"{score} ({base})" if score else "",
    }


def _slow(cell: pd.DataFrame, attacker: str) -> str:
    found = _pick(cell, "slow_down", role="harmful", attacker=attacker)
    bound = "≥" if "lower bound" in str(found.get("note")) else ""
    text = _number(found.get("value"))
    return bound + text if text else ""


def _pick(cell: pd.DataFrame, metric: str, **at: object) -> dict[str, object]:
    chosen = cell["metric"] == metric
    for column, value in at.items():
        chosen &= (cell[column] == value).fillna(False)
    found = cell[chosen]
    return {str(name): value for name, value in found.iloc[0].items()} if len(found) else {}


def _value(cell: pd.DataFrame, metric: str, **at: object) -> str:
    return _number(_pick(cell, metric, **at).get("value"))


def _interval(found: dict[str, object]) -> str:
    text = _number(found.get("value"))
    if text and not pd.isna(found["ci_low"]):  # type: ignore[call-overload]
        text += f" [{_number(found['ci_low'])}, {_number(found['ci_high'])}]"
    return text


def _number(value: object) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return ""
    number = float(value)  # type: ignore[arg-type]
    if number != 0 and not 1e-3 <= abs(number) < 1e5:
        return f"{number:.1e}"
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"
