"""The verdict on a grid: sentences made from its statistics, and silence where they hold none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from harness.leaderboard.headline import RETAINED, budget, times
from harness.leaderboard.protection import Protection
from harness.leaderboard.scores import quantity_of
from harness.suite import Grid

SAME = 1.05
"""A cost of less than this multiple of the undefended model's is called the cost of the undefended model."""


def verdict(grid: Grid, found: Sequence[Protection]) -> str:
    """What a grid's data decide, in plain sentences; empty where they decide nothing.

    grid: the grid. found: the protection against each of its threat models, see `protection.read`.
    """
    if not grid.attackers:
        name = grid.ranking.value.get("metric") if grid.ranking else None
        values = f"{quantity_of(grid, name).title} shows" if name else "these values show"
        return f"No attacker was run, so {values} no protection."
    if not found and grid.ranking is not None and not grid.ranking.succeeds:
        return f"{quantity_of(grid, str(grid.ranking.value['metric'])).title} does not tell whether an attack succeeds."
    if not found:
        return ""
    others = (found[0].table["control"] != "undefended").any()
    parts = _against([one for one in found if others and not one.evidence and len(one.costs.costs.columns)])
    if parts and any(place.kind != "unknown" for place in found[0].places.values()):
        parts[0] = f"at {RETAINED} retention, {parts[0]}"
    parts += [*_of_evidence(found), *_of_retention(found[0]), *_of_weak_attackers(found)]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in parts)


def opening(verdict: str) -> str:
    """The first sentence of a verdict."""
    return re.split(r"(?<=\.) (?=[A-Z])", verdict)[0]


def _against(found: Sequence[Protection]) -> list[str]:
    """What is shown against each threat model; those of which the same is shown are named together."""
    names: dict[str, list[str]] = {}
    for one in found:
        names.setdefault(_shown(one), []).append(one.costs.name)
    return [
        f"against each of {', '.join(several)}: {text}" if len(several) > 1 else f"against {several[0]}, {text}"
        for text, several in names.items()
    ]


def _shown(one: Protection) -> str:
    """Which rows are shown to be better than the undefended one against a threat model, and which are not broken."""
    if one.costs.censored.xs(one.costs.undefended, level="defense").all():
        return f"no attack breaks the undefended model within {budget(one)}"
    rows = one.table.set_index("defense")
    compared = [row for row in rows.index if one.places[row].kind != "harms" and rows["control"][row] != "undefended"]
    parts = [_best(one, rows, compared), *_endurance(one, rows["censored"][compared])]
    return "; ".join(parts)


def _best(one: Protection, rows: pd.DataFrame, compared: Sequence[str]) -> str:
    """The rows with the highest ratio of those that are shown to be better than the undefended row, and those that are
    shown to be worse.

    rows: `Protection.table` by row. compared: the rows that are compared with the undefended one.
    """
    pairs = one.compared.loc[one.compared["separated"], ["defense", "other"]]
    separated = set(pairs.itertuples(index=False, name=None))
    better = [row for row in compared if (row, one.costs.undefended) in separated]
    better.sort(key=lambda row: -rows["ratio"][row])
    if not compared:
        return f"no defense retains {RETAINED}"
    worse = [row for row in compared if (one.costs.undefended, row) in separated]
    faster = f"; {_joined(worse)} {_verb(worse, 'make')} the attack faster" if worse else ""
    if not better:
        return f"no defense is shown to be better than none{_untested(one)}{faster}"
    first, *others = better
    group = [first, *(row for row in others if (first, row) not in separated)]
    controls = [row for row in group if rows["control"][row] == "control"]
    defenses = [row for row in group if row not in controls]
    ahead = {row for row in compared if row != first and (first, row) in separated}
    text = _delays(rows.loc[defenses or controls], "" if defenses else f"the control{_s(controls)} ")
    if len(compared) > 1 and len(ahead) == len(compared) - 1:
        text += ", ahead of the rest"
    if defenses and controls:
        text += f", and the control{_s(controls)} {_joined(controls)} {'does' if len(controls) == 1 else 'do'} as well"
    less = [row for row in others if row not in group]
    return text + (f"; {_joined(less)} {_verb(less, 'delay')} it less" if less else "") + faster


def _untested(one: Protection) -> str:
    """Why nothing could be shown, where no pair could be tested."""
    if one.table.loc[one.table["control"] != "undefended", "ratio"].isna().all():
        return ", for cells are missing"
    tested = "p" in one.compared and one.compared["p"].notna().any()
    return "" if tested else ", for repetitions are too few to compare"


def _delays(rows: pd.DataFrame, what: str) -> str:
    """The rows with their ratios. what: stands before their names."""
    ratios = [_ratio(row) for _, row in rows.iterrows()]
    if len(rows) == 1:
        return f"{what}{rows.index[0]} delays the attack {ratios[0]}"
    names = [f"{row} ({ratio})" for row, ratio in zip(rows.index, ratios, strict=True)]
    return f"{what}{_joined(names)} delay the attack"


def _ratio(row: pd.Series) -> str:
    """A ratio in a sentence; without an interval where no attack has succeeded, since it has no upper end."""
    text = times(row, 2).replace("≥", "at least ")
    return text.partition(" [")[0] if row["censored"] == 1 else text


def _endurance(one: Protection, censored: pd.Series) -> Iterator[str]:
    """Which rows are not broken within the budget. censored: shares of their cells, by row."""
    shares = censored.dropna()
    if shares.empty:
        return
    labels = {label for row in censored.index for label in one.places[row].mix}
    missing = one.costs.least[one.costs.least.index.isin(labels, level="defense")].isna().any()
    cell = "measured cell" if missing else "cell"
    whole = [str(row) for row in shares.index[shares == 1]]
    if whole:
        yield f"{_joined(whole)} {_verb(whole, 'hold')} for {budget(one)} in all {cell}s"
    else:
        where = f"a single {cell}" if shares.max() == 0 else f"all {cell}s"
        yield f"no defense holds for {budget(one)} in {where}"


def _of_evidence(found: Sequence[Protection]) -> Iterator[str]:
    """What the attackers of threat models without a column show."""
    for one in found:
        rows = one.table[one.table["control"] != "undefended"]
        attackers = [str(name) for name in one.costs.costs]
        if not one.evidence or not attackers or rows.empty or one.costs.least.isna().any():
            continue
        knows = f" ({one.costs.model.knows})" if one.costs.model.knows else ""
        standing = list(rows.loc[rows["censored"] > 0, "defense"])
        most = rows.iloc[int(rows["ratio"].argmax())]
        if standing:
            result = f"{_verb(attackers, 'do')} not break {_joined(standing)} in every cell within {budget(one)}"
        elif most["ratio"] < SAME:
            result = f"{_verb(attackers, 'break')} every defense at the cost of the undefended model"
        else:
            bound = f"at up to {times(most, 2).partition(' ')[0]} the cost of the undefended model ({most['defense']})"
            result = f"{_verb(attackers, 'break')} every defense, {bound}"
        yield f"the attacker{_s(attackers)} {_joined(attackers)}{knows} {result}"


def _of_retention(one: Protection) -> Iterator[str]:
    """The rows that retain too little to be compared, and those of which it is not known what they retain while it is
    of others."""
    unknown = [row for row, place in one.places.items() if place.kind == "unknown"]
    if 0 < len(unknown) < len(one.places):
        yield f"the retention of {_joined(unknown)} is not known"
    harms = [row for row, place in one.places.items() if place.kind == "harms"]
    if harms:
        result = f"{_verb(harms, 'retain')} less than {RETAINED} and {_are(harms)} listed separately"
        yield f"the row{_s(harms)} {_joined(harms)} {result}"


def _of_weak_attackers(found: Sequence[Protection]) -> Iterator[str]:
    """The attackers whose survival earns a defense nothing."""
    weak = list(dict.fromkeys(attacker for one in found for attacker in one.costs.weak))
    if weak:
        result = f"{_are(weak)} not shown to break the undefended model, which earns a defense nothing"
        yield f"the attacker{_s(weak)} {_joined(weak)} {result}"


def _joined(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _verb(names: Sequence[str], verb: str) -> str:
    """A verb in the number of its subjects."""
    return verb if len(names) > 1 else verb + ("es" if verb.endswith("o") else "s")


def _s(names: Sequence[str]) -> str:
    return "s" if len(names) > 1 else ""


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"
