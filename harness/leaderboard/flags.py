"""What a board raises of itself: each flag with its meaning and what to do about it, and where it is raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from harness.leaderboard.scores import Cells

SEEDS = 5
"""Fewer seeds are too few for a headline."""
KEPT = 0.95
"""The share of what the undefended model does that a defense is to keep."""


@dataclass(frozen=True)
class Flag:
    """A stable short name, what it means, and what to do; `note`: words of a record's note that raise it."""

    name: str
    meaning: str
    todo: str
    note: str | None = None


FLAGS: Mapping[str, Flag] = {
    flag.name: flag
    for flag in (
        Flag("few-seeds", f"fewer than {SEEDS} seeds, so intervals are wide and ranks hardly separate",
             f"run at least {SEEDS} seeds before anything is claimed"),
        Flag("missing", "cells that failed, or whose figure is undefined or not finite; the averages are of the others",
             "read the reason in the long form and run them again"),
        Flag("no-control", "no undefended row, so nobody knows whether the attackers can attack at all",
             "run the defense `none` with the rest"),
        Flag("weak-attack", "an attacker that does not break the undefended model: surviving it earns a defense "
             "nothing; it is left out of the mean, and where no attacker does better there is neither worst case nor "
             "rank",
             "give it more steps or other settings, on seeds that are not reported"),
        Flag("stalled-attack", "the attack has not succeeded, and twice the steps bring it no further: the defense may "
             "hold, or the attacker is stuck", "try other step sizes and attackers before the defense is believed"),
        Flag("no-better", "no interval separates it from the undefended model",
             "do not call it a defense on this board; more seeds may tell"),
        Flag("control-as-good", "no interval separates it from a control, which takes no thought of an attacker",
             "compare with the controls, not with the undefended model"),
        Flag("harms", f"keeps less than {KEPT:.0%} of what the undefended model does on what is to be kept",
             "lower the defense's strength, or read its protection as damage"),
        Flag("floor", "a condition number was taken over a floor, not over the smallest eigenvalue",
             "read RIR under the policy `range` as well", note="floor hit"),
        Flag("denominator", "a similarity too near zero to divide by, so a gap is undefined",
             "read the rates, or take another encoder", note="denominator is below"),
        Flag("tuned-here", "settings were chosen on tasks and seeds that are reported here, which flatters",
             "report on seeds and tasks that chose nothing"),
        Flag("tuning-untold", "the suite does not say on which seeds and tasks its settings were chosen",
             "say it in the suite file's `tuning`"),
        Flag("unlike-published", "our interval excludes the published figure",
             "read the published figure's note: other models, data, steps or means"),
    )
}  # fmt: skip
"""By name, in the order in which boards list them."""

Raised = dict[tuple[str, str, str], dict[str, str]]
"""By grid, defense and attacker ("" for the defense itself) the flags' names, each with a detail or an empty text."""


def raised(records: pd.DataFrame, of: Cells | None, compared: pd.DataFrame | None) -> Raised:
    """The flags of one grid, from its records, its judging cells and their comparisons (None where nothing judges)."""
    grid = str(records["grid"].iloc[0])
    found: Raised = {}
    every = [*_of_records(records), *(_of_cells(of, compared) if of is not None and compared is not None else [])]
    for defense, attacker, flag, detail in every:
        found.setdefault((grid, defense, attacker), {})[FLAGS[flag].name] = detail
    return found


def _of_records(records: pd.DataFrame) -> Iterator[tuple[str, str, str, str]]:
    kept = records[records["judged"] == "kept"]
    by = ["metric", "role", "split"]
    base = kept[kept["control"] == "undefended"].groupby(by, dropna=False)["value"].mean()
    for defense, rows in records.groupby("defense", sort=False):
        seeds = rows["seed"].nunique()
        if 0 < seeds < SEEDS:
            yield str(defense), "", "few-seeds", str(seeds)
        lost = rows.loc[(rows["status"] != "ok") & rows["judged"].isna(), "key"].nunique()
        if lost:  # those that judge are counted by attacker
            yield str(defense), "", "missing", f"{lost} of {rows['key'].nunique()} measurements"
        for flag in FLAGS.values():
            if flag.note and rows["note"].str.contains(flag.note, regex=False).any():
                yield str(defense), "", flag.name, ""
        if rows["tuned"].isna().all():
            yield str(defense), "", "tuning-untold", ""
        elif rows["tuned"].any():
            yield str(defense), "", "tuned-here", ""
        own = kept[kept["defense"] == defense].groupby(by, dropna=False)["value"].mean()
        share = (own / base[base > 0]).dropna()
        if len(share) and share.min() < KEPT:
            least = share.index[int(share.argmin())]
            what = " ".join(str(name) for name in least if not pd.isna(name))
            yield str(defense), "", "harms", f"{what}: {share.min():.2f}"


def _of_cells(of: Cells, compared: pd.DataFrame) -> Iterator[tuple[str, str, str, str]]:
    for defense, lacking in of.scores.isna().groupby("defense", sort=False):
        for attacker in lacking.columns[lacking.any()]:
            yield str(defense), str(attacker), "missing", f"{lacking[attacker].sum()} of {len(lacking)} cells"
    known = set(compared.loc[compared["separated"], ["defense", "other"]].itertuples(index=False, name=None))
    judged = of.worst.notna().groupby("defense").any()
    for defense in of.defenses:
        if not len(of.undefended):
            yield defense, "", "no-control", ""
        if defense in of.undefended or not judged[defense]:
            continue
        if any((defense, other) not in known for other in of.undefended):
            yield defense, "", "no-better", ""
        equal = [other for other in of.controls if other != defense and (defense, other) not in known]
        if defense not in of.controls and equal:
            yield defense, "", "control-as-good", ", ".join(equal)
    for attacker in of.weak:
        for defense in of.defenses:
            yield defense, attacker, "weak-attack", ""
    if of.broken is not None:
        strong = [scores.drop(columns=of.weak) for scores in (of.scores, of.earlier)]
        last, before = (scores.groupby("defense").mean() for scores in strong)
        stuck = (last > of.score(of.broken)) & (before - last <= of.resolution)
        for attacker in stuck:
            for defense in stuck.index[stuck[attacker].astype(bool)]:
                yield str(defense), str(attacker), "stalled-attack", ""


def listed(found: Raised, defenses: list[str]) -> tuple[dict[str, str], list[str]]:
    """Flags for a grid's readable table: by defense those that few rows have, as a short text, and a line for each
    flag raised: where, what it means and what to do. One that two thirds of the rows have tells only the exceptions."""
    by_flag: dict[str, dict[str, list[str]]] = {}
    for (_, defense, attacker), flags in found.items():
        for name, detail in flags.items():
            said = f"{attacker}: {detail}" if attacker and detail else attacker or detail
            by_flag.setdefault(name, {}).setdefault(defense, []).append(said)
    short: dict[str, list[str]] = {defense: [] for defense in defenses}
    lines = []
    for name, flag in FLAGS.items():
        rows = by_flag.get(name)
        if not rows:
            continue
        same = len({tuple(said) for said in rows.values()}) == 1
        told = ", ".join(filter(None, next(iter(rows.values())))) if same else ""
        others = [defense for defense in defenses if defense not in rows]
        if 3 * len(others) <= len(defenses):
            where = f"all rows{' but ' if others else ''}{', '.join(others)}"
        else:
            where = ""
            for defense in rows:
                short[defense].append(name)
        if not same:
            told = "; ".join(f"{row} ({', '.join(filter(None, of))})" if any(of) else row for row, of in rows.items())
        about = "; ".join(filter(None, (where, told)))
        lines.append(f"{name}{f' ({about})' if about else ''}: {flag.meaning}. {flag.todo[0].upper()}{flag.todo[1:]}.")
    return {defense: " ".join(names) for defense, names in short.items()}, lines
