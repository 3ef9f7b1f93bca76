"""Cost to break: what the attackers of a threat model spend on each cell until an attack succeeds.

An attack succeeds when its outcome has gone the threat model's share of the way from the outcome's start to the best
value that an attacker of the threat model reaches on the undefended model of the cell, so that a weak attacker sets no
low bar. Its cost is interpolated linearly between measured steps. The cost of the threat model is the least one of its
attackers.

An attack that does not succeed within the budget has a censored cost. The budget is the same for all cells, so the cost
restricted to it, min(cost, budget), is always known. Its mean logarithm is the restricted mean (Royston & Parmar, BMC
Medical Research Methodology 13, 2013), which the paired tests of other values compare (`standings.comparisons`), and
the Kaplan–Meier estimate of the survival function is the share of cells that are not yet broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from harness.costs import COST
from harness.leaderboard.scores import (
    CELL,
    Scale,
    Scores,
    by_cell,
    every_cell,
    failures,
    first_coordinates,
    forfeited,
    quantity_of,
    selected,
    with_forfeits,
)
from harness.leaderboard.stats import Floats
from harness.metric import Quantity
from harness.ranking import ALL_ATTACKERS, Outcome, ThreatModel
from harness.records import Records
from harness.suite import Grid

RESOLUTION = 1e-3
"""Smallest relative difference of costs that counts."""


@dataclass(frozen=True)
class Costs:
    """The costs to break of a threat model on one grid.

    name, model: the threat model; its `unit` is steps where the records do not count its own unit. grid: the grid.
    outcome, quantity: what says how far an attack has got. at: as in `Scores`. costs: index defense × task × seed,
    complete, a column for each attacker that breaks the undefended model; infinite where its attack does not succeed,
    NaN where it is missing. budget: in the unit. weak: attackers that are not shown to break the undefended model,
    whose survival earns a defense nothing. reached: as `costs`, the best value of the outcome that any of these
    attackers reaches within the budget. exact: as in `Scores`.
    """

    name: str
    model: ThreatModel
    grid: Grid
    outcome: Outcome
    quantity: Quantity
    at: Mapping[str, Any]
    costs: pd.DataFrame
    budget: float
    weak: tuple[str, ...]
    reached: pd.Series
    exact: frozenset[str]

    @cached_property
    def least(self) -> pd.Series:
        """The least cost of the attackers by defense × task × seed, restricted to the budget; missing where an attack
        has failed, since a defense must gain nothing by that, and where the undefended model is not broken within the
        budget, since there is nothing to compare with."""
        complete = self.costs.notna().all(axis=1) & (len(self.costs.columns) > 0)
        is_base = self.censored.index.get_level_values("defense") == self.undefended
        unbroken = (self.censored & is_base).groupby(["task", "seed"]).transform("any")
        return self.costs.min(axis=1).clip(upper=self.budget).where(complete & ~unbroken)

    @cached_property
    def censored(self) -> pd.Series:
        """Whether no attack succeeds within the budget, by defense × task × seed."""
        return self.costs.min(axis=1) > self.budget

    @cached_property
    def undefended(self) -> str | None:
        """The undefended row."""
        return next(iter(self.grid.undefended), None)

    @cached_property
    def scores(self) -> Scores:
        """Log ratios of the least cost to that on the undefended model of the same cell."""
        logs = np.log(self.least)
        base = logs.xs(self.undefended, level="defense")
        ratios = logs.unstack("defense").sub(base, axis=0).stack(future_stack=True)
        ratios = ratios.reorder_levels(["defense", "task", "seed"]).reindex(logs.index)
        return Scores(
            at=self.at,
            rows=list(self.grid.defenses),
            members=self.grid.members,
            by_cell=ratios,
            exact=self.exact,
            scale=Scale("higher", log=True),
            resolution=RESOLUTION,
        )

    @cached_property
    def outcomes(self) -> Scores:
        """The best value of the outcome that the attackers reach within the budget."""
        scale = Scale(self.outcome.better, log=self.quantity.scale == "log")
        defined = self.reached.where(self.reached > 0) if scale.log else self.reached
        return replace(
            self.scores,
            by_cell=scale.score(defined),
            scale=scale,
            resolution=self.outcome.resolution,
            unit=self.quantity.unit,
        )

    @cached_property
    def strongest(self) -> pd.Series:
        """By defense, the attacker with the least cost in most of the cells that are broken."""
        rows = list(self.grid.defenses)
        known = self.costs[~self.censored].dropna()
        if known.empty or not len(known.columns):
            return pd.Series(pd.NA, rows, dtype="string")
        first = known.idxmin(axis=1).groupby("defense").agg(lambda names: names.mode().iloc[0])
        return first.reindex(rows).astype("string")

    def survival(self, defense: str) -> tuple[Floats, Floats]:
        """The Kaplan–Meier curve of a row: ascending costs, and the share of cells that are not broken up to each."""
        least = self.least.xs(defense, level="defense").dropna()
        broken = np.sort(least[~self.censored.loc[defense].reindex(least.index)].to_numpy(float))
        return broken, 1 - np.arange(1, len(broken) + 1) / max(len(least), 1)


def threat_models(grid: Grid) -> Mapping[str, ThreatModel]:
    """The threat models of a grid; one of all attackers where the grid, of an earlier harness, names none."""
    if grid.threat_models or not grid.attackers or grid.ranking is None:
        return grid.threat_models
    return {ALL_ATTACKERS: ThreatModel.model_construct(attackers=list(grid.attackers))}


def read(records: Records, grid: Grid) -> dict[str, Costs]:
    """The costs to break of each threat model of a grid that has any measured, by name. Without an undefended row there
    are none, nor by a value that does not tell success."""
    if grid.ranking is None:
        return {}
    frame = records.of(grid)
    uncounted = set(grid.attackers) - set(records.counted_attackers(grid))
    counted = {
        name: one.model_copy(update={"attackers": [label for label in one.attackers if label not in uncounted]})
        for name, one in threat_models(grid).items()
    }
    telling = {name: one for name, one in counted.items() if (one.outcome or grid.ranking).succeeds}
    models = {name: _costs(records, grid, frame, name, model) for name, model in telling.items()}
    return {name: costs for name, costs in models.items() if costs is not None and costs.undefended is not None}


def _costs(records: Records, grid: Grid, frame: pd.DataFrame, name: str, model: ThreatModel) -> Costs | None:
    outcome = model.outcome or grid.ranking
    assert outcome is not None
    of_model, ok = frame["attacker"].isin(model.attackers), frame["status"] == "ok"
    measured = of_model & ok & selected(frame, outcome.value) & frame["step"].notna()
    if not measured.any():
        return None
    coordinates = first_coordinates(frame, measured, outcome.value)
    curves = frame.loc[measured & selected(frame, coordinates), [*CELL, "step", "value"]]
    spent, unit = _spent(frame, curves, model)
    suite = records.suite
    exact = curves["seed"].isna().groupby(curves["defense"]).all()
    seeds = grid.seeds if curves["seed"].notna().any() else grid.seeds[:1]
    values = by_cell(curves, "value", seeds, [*CELL, "step"])
    values = values.where(np.isfinite(values))
    spent = by_cell(spent, "value", seeds, [*CELL, "step"])
    spent = spent.reindex(index=values.index, columns=values.columns)  # at step 0 no cost is recorded
    progress = outcome.origin - values if outcome.better == "higher" else values - outcome.origin
    best = progress if outcome.chosen else progress.T.cummax().T  # an attacker keeps the best of its measured steps
    reach = best.ffill(axis=1).iloc[:, -1].unstack("attacker").reindex(columns=model.attackers)
    undefended = grid.undefended[:1]
    base = reach[reach.index.get_level_values("defense").isin(undefended)].groupby(["task", "seed"]).first()
    weak = _weak(base, outcome)
    strong = [label for label in model.attackers if label not in weak]
    last = spent.ffill(axis=1).iloc[:, -1]
    last = last[last.index.isin(strong or model.attackers, level="attacker")]
    budget = min(model.budget or np.inf, float(last.min()))
    bar = base[strong].max(axis=1)
    targets = model.share * bar.where(bar > 0)
    costs, within = _crossings(best, spent, targets, budget)
    whole = every_cell(grid, values.index.unique("seed"))
    costs, within = (table.reindex(index=whole, columns=strong) for table in (costs, within))
    lost = forfeited(frame, failures(frame[of_model & ~ok], coordinates), costs, grid)
    costs, within = with_forfeits(costs, lost), -with_forfeits(-within, lost)
    reached = within.max(axis=1, skipna=False)
    return Costs(
        name=name,
        model=model.model_copy(update={"unit": unit}),
        grid=grid,
        outcome=outcome,
        quantity=quantity_of(grid, str(coordinates["metric"])),
        at={"suite": suite.name, "suite_version": suite.version, "grid": grid.name, "track": grid.track},
        costs=costs,
        budget=budget,
        weak=tuple(weak),
        reached=outcome.origin + (-reached if outcome.better == "higher" else reached),
        exact=frozenset(exact.index[exact]),
    )


def _spent(frame: pd.DataFrame, curves: pd.DataFrame, model: ThreatModel) -> tuple[pd.DataFrame, str]:
    """Rows like `curves` whose values are what the attack has spent at its measured steps, and the unit: steps where
    the records do not count the model's own, or nothing of it for one of the attackers."""
    if model.unit != "steps":
        of_unit = (frame["measured_by"] == COST) & (frame["metric"] == model.unit) & frame["step"].notna()
        counted = frame.loc[of_unit & frame["attacker"].isin(model.attackers), [*CELL, "step", "value"]]
        if set(curves["attacker"]) <= set(counted.loc[counted["value"] > 0, "attacker"]):
            return counted, model.unit
    return curves.assign(value=curves["step"].astype(float)), "steps"


def _weak(base: pd.DataFrame, outcome: Outcome) -> list[str]:
    """The attackers that are not shown to break the undefended model, on the mean over cells. base: what they reach
    there, from the start."""
    least = 0.0 if outcome.broken is None else abs(outcome.broken - outcome.origin)
    means = base.mean()
    return [str(attacker) for attacker, mean in means.items() if not (mean > 0 and mean >= least - 1e-9)]


def _crossings(
    best: pd.DataFrame, spent: pd.DataFrame, targets: pd.Series, budget: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cost at which each attack reaches its target, and its progress within the budget: index defense × task ×
    seed, a column for each attacker. The cost is infinite where the attack does not reach it; both are NaN where too
    few values are known, the cost also where there is no target.

    best: progress by attack (index `CELL`), a column for each step. spent: the costs likewise. targets: by task and
    seed.
    """
    steps = best.columns.to_numpy(int)
    found = np.empty((len(best), 2))
    assert isinstance(best.index, pd.MultiIndex)
    _, tasks, seeds, _ = best.index.levels
    _, task, seed, _ = best.index.codes
    of_attack = targets.unstack("seed").reindex(index=tasks, columns=seeds).to_numpy(float)[task, seed]
    lines = zip(best.to_numpy(float), spent.to_numpy(float), of_attack, strict=True)
    for i, (line, cost, target) in enumerate(lines):
        cost = np.where(steps == 0, 0.0, cost)
        known = np.isfinite(line) & np.isfinite(cost)
        found[i] = _crossing(steps[known], line[known], cost[known], target, budget)
    table = pd.DataFrame(found, index=best.index, columns=["cost", "progress"])
    return table["cost"].unstack("attacker"), table["progress"].unstack("attacker")


def _crossing(steps: Any, line: Floats, cost: Floats, target: float, budget: float) -> tuple[float, float]:
    """The cost at which a rising line of progress first reaches the target, at least that of one step, and the progress
    within the budget; see `_crossings`."""
    if not len(line):
        return np.nan, np.nan
    if steps[0] > 0:  # nothing is learnt before the first step
        steps, line, cost = (np.concatenate([[0], part]) for part in (steps, line, cost))
    progress = float(np.interp(budget, cost, line, right=np.nan))
    if not np.isfinite(target):
        return np.nan, progress
    reached = np.flatnonzero(line >= target)
    if not len(reached):
        return (np.inf if cost[-1] >= budget else np.nan), progress
    i = int(reached[0])
    at = cost[i]
    if i > 0:
        at = cost[i - 1] + (cost[i] - cost[i - 1]) * (target - line[i - 1]) / (line[i] - line[i - 1])
    paid = cost > 0
    one = cost[paid][0] / steps[paid][0] if paid.any() else 1.0
    return float(max(at, one)), progress
