"""The table that a board shows first: how each defense does against each threat model, at equal retention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from harness.costs import COST, COUNTED
from harness.leaderboard.cost_to_break import RESOLUTION
from harness.leaderboard.protection import Protection
from harness.leaderboard.retention import RETENTION
from harness.leaderboard.scores import quantity_of, selected
from harness.leaderboard.standings import POWER
from harness.leaderboard.tables import CI, interval, marked, number, row_name, without_empty_columns
from harness.suite import Grid

THREAT_MODELS = 4
"""Most threat models that are columns; with more the table has more than eight columns."""
RETAINED = f"{RETENTION * 100:g} %"
"""The retention at which defenses are compared, as text."""
CALL = 44
"""Most characters of a call in the table; the whole calls are in the notes."""
BELOW = (
    "Cost to break: what an attack spends until it succeeds, over what it spends on the undefended model of the same "
    f"task and seed; geometric mean, with a 95 % interval for other seeds on these tasks. Compared at {RETAINED} "
    "retention. ≥: some attacks do not succeed within the budget, so the ratio is a lower bound; ∞: none succeeds. "
)
LETTERS = "Two rows that share a letter are not separated (paired comparisons of the cells, Holm, 5 %). "


def shown(found: Sequence[Protection]) -> list[Protection]:
    """The protection against the threat models that pictures and tables show: those with a column, of which a cost to
    break is known. found: against each threat model of a grid."""
    return [one for one in found if not one.evidence and one.table["ratio"].notna().any()]


def in_order(found: Sequence[Protection]) -> list[str]:
    """The defenses by their ratio against the first threat model, the best first; those that retain too little come
    last, and untrusted ones are not among them. found: see `shown`, not empty."""
    table = found[0].table.assign(harms=found[0].table["kind"] == "harms")
    ordered = table.sort_values(["harms", "ratio"], ascending=[True, False], kind="stable", na_position="last")
    return [str(row) for row in ordered["defense"]]


def _listed(found: Sequence[Protection]) -> list[str]:
    """All defenses, in the order of the tables: those `in_order`, and untrusted ones below them."""
    return [*in_order(found), *map(str, found[0].untrusted["defense"])]


def headline(found: Sequence[Protection], grid: Grid, flags: Mapping[str, str]) -> tuple[pd.DataFrame, str] | None:
    """The table and the text below it; None where no cost to break is known.

    found: the protection against each threat model of the grid. flags: by row, the names of its flags.
    """
    found = shown(found)[:THREAT_MODELS]
    if not found:
        return None
    order = _listed(found)
    table = pd.DataFrame({"defense": [row_text(grid, found[0], row) for row in order]}, dtype=object)
    for one in found:
        rows = one.listed.set_index("defense").loc[order]
        letters = rows["letters"].fillna("") if one.separated else pd.Series("", rows.index)
        texts = [f"{times(row)} {letter}".strip() for (_, row), letter in zip(rows.iterrows(), letters, strict=True)]
        table[f"cost to break: {one.costs.name} {CI}"] = texts
    first = found[0]
    rows = first.listed.set_index("defense").loc[order]
    several = f", {first.costs.name}" if len(found) > 1 else ""
    table[f"{first.costs.quantity.title} within {budget(first)}{several} {CI}"] = reached(first, rows)
    adapted = rows["adapted"].notna().any()
    pairs = zip(rows["retention"].map(number), rows["adapted"].map(number), strict=True)
    table["retention" + (" / adapted" if adapted else "")] = [
        f"{released} / {after or '–'}" if adapted else released for released, after in pairs
    ]
    table["flags"] = [row_flags(grid, flags, row) for row in order]
    below = (
        ensemble_line(grid)
        + BELOW
        + (LETTERS if any(one.separated for one in found) else "")
        + _below(first, grid, bool(adapted))
    )
    return without_empty_columns(table), below


def ensemble_line(grid: Grid) -> str:
    """Which ensemble the attackers of a grid are of, and which of them have other settings or are not of it, as a
    sentence; empty without an ensemble."""
    if grid.ensemble is None:
        return ""
    members = grid.ensemble.attackers
    kept = [label for label in members if label in grid.attackers and not grid.changes_of("attacker", label)]
    part = f"{len(kept)} of the {len(members)} of " if len(kept) < len(members) else ""
    further = [marked(grid, "attacker", label) for label in grid.attackers if label not in kept]
    return f"Attackers: {', '.join([f'{part}ensemble {grid.ensemble}', *further])}. "


def _below(first: Protection, grid: Grid, adapted: bool) -> str:
    """The text on the columns after the ratios."""
    harms, untrusted = int((first.table["kind"] == "harms").sum()), len(first.untrusted)
    verified = "verified " if untrusted else ""
    last = f"The last {harms} {verified}rows retain" if harms > 1 else f"The last {verified}row retains"
    apart = f"{last} less than {RETAINED} and {'are' if harms > 1 else 'is'} not compared. " if harms else ""
    if untrusted:
        last = f"The last {untrusted} rows are" if untrusted > 1 else "The last row is"
        apart += f"{last} not verified and not compared: no cell was run again, as cells of the others were. "
    swept = "A swept defense is interpolated between the strengths in its row, or is at its strongest. "
    outcome = f"{first.costs.quantity.title}: the best that an attacker reaches within the budget. "
    retention = (
        "Retention: of the released model, relative to the undefended one, the smallest of its kinds"
        + ("; adapted: the same after fine-tuning on a benign task" if adapted else "")
        + "."
    )
    return apart + (swept if grid.sweeps else "") + outcome + retention


def times(row: pd.Series, digits: int = 3) -> str:
    """A ratio as text: `2.1× [1.6, 2.8]`, with ≥ where attacks were censored and ∞ where all were. row: of
    `Protection.table`."""
    if pd.isna(row["ratio"]):
        return ""
    bound = "≥" if row["censored"] > 0 else ""
    text = f"{bound}{with_digits(row['ratio'], digits)}×"
    if row["control"] == "undefended" or pd.isna(row["ci_low"]):
        return text
    if row["censored"] < 1 and row["ci_high"] < row["ci_low"] * (1 + RESOLUTION):
        return f"{text} [< {RESOLUTION:g}]"
    return f"{text} {_ends(row, 'ci', digits)}"


def _ends(row: pd.Series, kind: str, digits: int = 3) -> str:
    """The interval `kind` of a ratio as text, empty where there is none."""
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    if pd.isna(low) or row["control"] == "undefended":
        return ""
    end = "∞)" if row["censored"] == 1 else f"{with_digits(high, digits)}]"
    return f"[{with_digits(low, digits)}, {end}"


def with_digits(value: float, digits: int = 3) -> str:
    """A number with this many significant digits."""
    return number(float(f"{value:.{digits}g}"))


def reached(one: Protection, rows: pd.DataFrame) -> list[str]:
    """The values that attackers reach, as text. rows: of its table."""
    names = {"reached": "value", "reached_ci_low": "ci_low", "reached_ci_high": "ci_high"}
    values = rows[list(names)].rename(columns=names)
    small = 1e-6 * one.costs.outcome.resolution
    values = values.mask(values.abs() < small, 0.0)
    resolution = 0.0 if one.costs.outcomes.scale.log else one.costs.outcome.resolution
    return [interval(row, resolution) for _, row in values.iterrows()]


def budget(one: Protection) -> str:
    """The budget of a threat model as text."""
    unit = {"gradients": "gradient evaluations", "seconds": "s"}.get(one.costs.model.unit, one.costs.model.unit)
    return f"{number(one.costs.budget)} {unit}"


def rows_of(grid: Grid, row: str) -> list[str]:
    """The labels in `grid.defenses` of a row of the table: those of a sweep, or the one of a single row."""
    return [label for label in grid.sweeps.get(row, [row]) if label in grid.defenses]


def with_control(name: str, control: object) -> str:
    """A row's name with its kind of control, if it is one."""
    return f"{name} ({control})" if isinstance(control, str) else name


def row_text(grid: Grid, one: Protection, row: str) -> str:
    """A row's name with its control mark and its call, or the strengths between which a sweep is compared."""
    first = rows_of(grid, row)[0]
    control = grid.control(first)
    name = with_control(marked(grid, "defense", row), control)
    if row in grid.sweeps:
        mix = one.places[row].mix
        shares = {label: f"{share:.2g} " if len(mix) > 1 else "" for label, share in mix.items()}
        return f"{name} at {' + '.join(share + (label.partition('@')[2] or label) for label, share in shares.items())}"
    return f"{name}: {_short(grid.defenses[row].call)}"


def _short(call: str) -> str:
    """A call that ends after the last argument that fits."""
    if len(call) <= CALL:
        return call
    kept = call[:CALL].rpartition(", ")[0]
    return f"{kept}, …)" if kept else f"{call.partition('(')[0]}(…)"


def row_flags(grid: Grid, flags: Mapping[str, str], row: str) -> str:
    """The flags of a row of the table. That one strength of a sweep harms is no flag of the sweep, which is compared
    where it retains enough."""
    names = dict.fromkeys(name for label in rows_of(grid, row) for name in flags.get(label, "").split())
    return " ".join(name for name in names if name != "harms" or row not in grid.sweeps)


def in_full(found: Sequence[Protection], grid: Grid, long: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The details of the headline: a row for each threat model and defense, with both intervals, the cost itself, the
    strongest attacker, what is reached and, where the track measures it, the optimum of an unlimited budget.

    long: the grid's long-form board.
    """
    parts = []
    found = shown(found)
    order = _listed(found)
    for one in found:
        rows = one.listed.set_index("defense").loc[order]
        part = pd.DataFrame({"defense": [marked(grid, "defense", row) for row in order]}, dtype=object)
        part["threat model"] = one.costs.name
        part[f"ratio {CI}"] = [times(row) for _, row in rows.iterrows()]
        part["other tasks"] = [_ends(row, "tasks") for _, row in rows.iterrows()]
        part["cost"] = rows["cost"].map(number).to_numpy()
        part["not broken"] = ["" if pd.isna(share) else f"{share:.0%}" for share in rows["censored"]]
        part["by"] = rows["by"].fillna("").to_numpy()
        part["reached"] = [f"{one.costs.quantity.title} {text}" if text else "" for text in reached(one, rows)]
        for title, values in _optima(one, grid, long).items():
            part[title] = [number(values[row]) for row in order]
        part["least retention"] = rows["retention_of"].fillna("").to_numpy()
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    if len(found) == 1:
        table = table.drop(columns="threat model")
    below = (
        "ratio: as above; other tasks: the 95 % interval for other seeds and other tasks. cost: geometric mean, "
        "restricted to the budget ("
        + "; ".join(f"{one.costs.name}: {budget(one)}" for one in found)
        + "). not broken: share of cells. by: the attacker with the least cost in most cells. reached: the best that "
        "an attacker reaches within the budget. least retention: the kind that retains least."
    )
    optima = [name for name in table if str(name).startswith("optimum: ")]
    return without_empty_columns(table), below + (" optimum: at an unlimited budget." if optima else "")


def power(found: Sequence[Protection]) -> tuple[pd.DataFrame, str] | None:
    """How many pairs of defenses are separated under each threat model, and which ratio of costs the cells can tell;
    None where no pair has been tested. found: the protection against each threat model of a grid."""
    rows = []
    for one in shown(found):
        tested = one.compared[one.compared["p"].notna()] if "p" in one.compared else one.compared.iloc[:0]
        if not tested.empty:
            ratios = tested["detectable"].quantile([0, 0.5, 1])
            least, half, most = (f"{with_digits(float(ratio), 3)}×" for ratio in ratios)
            rows.append(
                {
                    "threat model": one.costs.name,
                    "cells of a row": number(tested["n_cells"].max()),
                    "pairs": str(len(tested)),
                    "separated": str(int(tested["separated"].sum())),
                    "detectable ratio: median": half,
                    "range": f"{least} to {most}",
                }
            )
    below = (
        "separated: pairs of rows whose costs to break differ (paired comparisons, Holm, 5 %). detectable ratio: the "
        "true ratio of two rows' costs that as many cells with the same spread would separate with probability "
        f"{POWER:g}, at the strictest level of Holm's rule; over the pairs."
    )
    return (pd.DataFrame(rows), below) if rows else None


def _optima(one: Protection, grid: Grid, long: pd.DataFrame) -> dict[str, pd.Series]:
    """By title, the values of the optimum of each row of the table."""
    released = long[long["attacker"].isna()]
    optima: dict[str, pd.Series] = {}
    for selector in grid.ranking.optimum if grid.ranking else []:
        values = released[selected(released, selector)].groupby("defense")["value"].first().astype(float)
        if len(values):
            title = f"optimum: {quantity_of(grid, str(selector['metric'])).title}"
            values = values.reindex(list(grid.defenses))
            optima[title] = pd.Series({row: place.blend(values) for row, place in one.places.items()})
    return optima


def spent(records_frame: pd.DataFrame, grid: Grid) -> tuple[pd.DataFrame, str] | None:
    """What each attacker spends in all, mean over the cells of the undefended row (of all rows, where there is none);
    None where it was not counted. records_frame: the grid's records."""
    frame = records_frame[(records_frame["measured_by"] == COST) & records_frame["step"].isna()]
    frame = frame[frame["attacker"].isin(list(grid.attackers)) & frame["value"].notna()]
    undefended = grid.undefended
    of_base = frame["defense"].isin(undefended)
    frame = frame[of_base] if of_base.any() else frame
    names = ["plugin_steps", *COUNTED, "seconds"]
    means = frame.astype({"value": float}).groupby(["attacker", "metric"])["value"].mean().unstack()
    rows = [label for label in grid.attackers if label in means.index]
    means = means.reindex(index=rows, columns=names)
    means = means.loc[:, (means > 0).any()]  # a track need not count
    if not set(means) & set(COUNTED):
        return None
    titles = {str(name): quantity_of(grid, str(name)).title for name in means}
    table = means.map(number).rename(columns=titles | {"seconds": "seconds"}).rename_axis(columns=None)
    table.insert(0, "attacker", [row_name(grid, "attacker", label) for label in table.index])
    whose = "on the undefended model" if of_base.any() else "over all rows"
    return table.reset_index(drop=True), f"What one attack spends in all, mean {whose}."
