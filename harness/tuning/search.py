"""Searches an attacker's settings against each defense of a suite, on the tasks and seeds of its grids' `tuning`.

Every trial is an ordinary row of a suite, so its cells are in the store, and a search that was stopped reads them
there and continues with the same trials: each trial follows from the seed and the trials before it. The undefended
model gets as many trials as each defense. A round runs one trial of every search, so that workers share the cells.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.execution import scheduler
from harness.execution.executors import Executor
from harness.leaderboard.cost_to_break import threat_models
from harness.leaderboard.scores import selected
from harness.metric import read_values
from harness.plan import Plan, make
from harness.plugin import PluginSpec
from harness.ranking import Outcome, Selector
from harness.records import frame
from harness.registry import Registry, installed
from harness.stage import seed_of
from harness.store import Store
from harness.suite import Grid, Suite
from harness.tuning.space import Range, search_space


@dataclass(frozen=True)
class Trial:
    """One setting of an attacker that was tried.

    number: from 0, the suite's own setting. settings: the searched fields. score: mean over tasks, seeds and measured
    steps of how far the attack has got so far, from the outcome's start; NaN if a cell failed. retention: of the
    attacked model, relative to the released one; NaN where none is measured. seconds: inside the attacker. allowed:
    whether the retention is at least 1 − ε.
    """

    number: int
    settings: Mapping[str, Any]
    score: float
    retention: float
    seconds: float
    allowed: bool


@dataclass
class Search:
    """The search for one attacker against one defense of a grid. spec: the attacker's row. ranges: its search space.
    trials: those that are done."""

    grid: Grid
    attacker: str
    defense: str
    spec: PluginSpec
    ranges: Mapping[str, Range]
    epsilon: float
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seed = seed_of("tune", self.grid.name, self.attacker, self.defense) % 2**32
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constraints_func=_constraints)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._study.enqueue_trial({name: self.spec.params[name] for name in self.ranges})

    @property
    def best(self) -> Trial:
        """The allowed trial with the highest score, the earliest of equal ones; the suite's own setting if none is
        allowed."""
        allowed = [trial for trial in self.trials if trial.allowed]
        return max(allowed, key=lambda trial: trial.score, default=self.trials[0])

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """The next trial: optuna's, and its settings."""
        trial = self._study.ask()
        return trial, {name: bounds.suggest(trial, name) for name, bounds in self.ranges.items()}

    def tell(self, asked: Any, trial: Trial) -> None:
        """End a trial that `ask` began."""
        import optuna

        self.trials.append(trial)
        shortfall = 0.0 if np.isnan(trial.retention) else 1 - self.epsilon - trial.retention
        asked.set_user_attr("constraint", (shortfall,))
        if np.isnan(trial.score):
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(asked, trial.score)


def _constraints(trial: Any) -> Sequence[float]:
    """How far a trial's retention falls short, for optuna: not allowed if above zero."""
    constraint: Sequence[float] = trial.user_attrs["constraint"]
    return constraint


def searches(suite: Suite, epsilon: float) -> list[Search]:
    """The searches of a suite that was loaded for tuning: of each grid, attacker with a search space, and defense; of a
    swept defense for its middle strength. Raises `UsageError` if there are none."""
    registry = installed().with_files(suite.plugins)
    found = []
    for grid in suite.grids:
        for attacker, spec in grid.attackers.items():
            ranges = search_space(registry.get("attacker", spec.name).load())
            if ranges:
                found += [Search(grid, attacker, row, spec, ranges, epsilon) for row in _defenses(grid)]
    if not found:
        raise UsageError(f"suite '{suite.name}' has no attacker with a search space among those to tune")
    return found


def _defenses(grid: Grid) -> Iterator[str]:
    """The rows to search against."""
    left_out = {row for rows in grid.sweeps.values() for row in rows if row != rows[len(rows) // 2]}
    yield from (row for row in grid.defenses if row not in left_out)


def run(
    suite: Suite,
    found: Sequence[Search],
    trials: int,
    store: Store,
    executor: Executor,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Plan, dict[str, str]]:
    """Run `trials` trials of each search. Returns the plan of all their cells, and the reasons of failed jobs by key.

    store: of artifacts. executor: stays as it is. say: gets a line for each round.
    """
    registry = installed().with_files(suite.plugins)
    rows: dict[str, Grid] = {}
    failed: dict[str, str] = {}
    for number in range(trials):
        asked = [search.ask() for search in found]
        specs = [_spec(search, settings, registry) for search, (_, settings) in zip(found, asked, strict=True)]
        parts = [
            _grid(search, {f"{search.attacker} {number}": spec}) for search, spec in zip(found, specs, strict=True)
        ]
        plan = make(suite.model_copy(update={"grids": _merged(parts)}))
        failed |= scheduler.run(plan, store, _Lasting(executor))
        values = _values(plan, store, failed)
        for search, (trial, settings), part in zip(found, asked, parts, strict=True):
            search.tell(trial, _trial(search, part, number, settings, values))
        for part in parts:
            rows[part.name] = _merged([rows[part.name], part])[0] if part.name in rows else part
        best = ", ".join(f"{search.attacker} on {search.defense} {search.best.score:.3f}" for search in found)
        say(f"trial {number + 1} of {trials}: best so far {best}")
    return make(suite.model_copy(update={"grids": list(rows.values())})), failed


class _Lasting:
    """An executor that a run does not stop unless it is interrupted, so that its workers last for the next round."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.separate, self.workers, self.submit = executor.separate, executor.workers, executor.submit

    def stop(self, at_once: bool) -> None:
        """Stop the workers if they are to be killed."""
        if at_once:
            self._executor.stop(at_once)


def _spec(search: Search, settings: Mapping[str, Any], registry: Registry) -> PluginSpec:
    where = f"attacker '{search.attacker}' against '{search.defense}'"
    return registry.get("attacker", search.spec.name).spec({**search.spec.params, **settings}, where)


def _grid(search: Search, attackers: Mapping[str, PluginSpec]) -> Grid:
    """The grid of a search's defense with trials as rows, measured by the metrics that the search reads."""
    grid = search.grid
    wanted = {str(selector["metric"]) for selector in (_outcome(search).value, *_retained(grid))}
    registry = installed()
    metrics = {
        label: spec
        for label, spec in grid.metrics.items()
        if wanted & {quantity.name for quantity in registry.get("metric", spec.name).load().quantities}
    }
    return grid.model_copy(
        update={
            "name": re.sub(r"[^\w .,+=()@-]", "_", f"{grid.name} {search.defense}"),
            "defenses": {search.defense: grid.defenses[search.defense]},
            "attackers": dict(attackers),
            "metrics": metrics,
            "threat_models": {},
            "ensemble": None,
            "sweeps": {},
            "changed": [],
        }
    )


def _merged(parts: Sequence[Grid]) -> list[Grid]:
    """Grids of one name as one, with the attackers of all."""
    merged: dict[str, Grid] = {}
    for part in parts:
        known = merged.get(part.name)
        attackers = {**(known.attackers if known else {}), **part.attackers}
        merged[part.name] = part.model_copy(update={"attackers": attackers})
    return list(merged.values())


def _values(plan: Plan, store: Store, failed: Mapping[str, str]) -> pd.DataFrame:
    """The records of a round."""
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        artifact = None if cell.job.key in failed else store.open(cell.job.key)
        at = {**cell.coordinates, "key": cell.job.key, "status": "failed" if artifact is None else "ok"}
        rows += [{**at, **value} for value in read_values(artifact)] if artifact is not None else [at]
    return frame(rows)


def _outcome(search: Search) -> Outcome:
    """What says how far an attacker has got: as in the first threat model that it is in."""
    models = (model for model in threat_models(search.grid).values() if search.attacker in model.attackers)
    outcome = next((model.outcome for model in models if model.outcome is not None), search.grid.ranking)
    if outcome is None:
        raise UsageError(f"grid '{search.grid.name}' has no ranking, so nothing says how far an attack has got")
    return outcome


def _retained(grid: Grid) -> list[Selector]:
    """The values of an attacked model's retention of what the attack is not about."""
    return list(grid.ranking.retained) if grid.ranking else []


def _trial(search: Search, part: Grid, number: int, settings: Mapping[str, Any], values: pd.DataFrame) -> Trial:
    """What a trial has reached. values: records of its round."""
    label = f"{search.attacker} {number}"
    own = values[(values["grid"] == part.name) & ((values["attacker"] == label) | values["attacker"].isna())]
    attacked = own[own["attacker"].notna()]
    outcome = _outcome(search)
    curves = attacked[(attacked["status"] == "ok") & selected(attacked, outcome.value) & (attacked["step"] > 0)]
    score = float("nan")
    if len(curves) and not (attacked["status"] != "ok").any():
        wide = curves.assign(value=curves["value"].astype(float)).pivot_table(
            "value", ["task", "seed"], "step", dropna=False
        )
        progress = outcome.origin - wide if outcome.better == "higher" else wide - outcome.origin
        score = float(progress.clip(lower=0).T.cummax().mean().mean())  # the start is not lost
    seconds = attacked.loc[(attacked["metric"] == "seconds") & attacked["step"].isna(), "value"].astype(float).sum()
    retention = _retention(own, part)
    allowed = not np.isnan(score) and not retention < 1 - search.epsilon
    return Trial(number, dict(settings), score, retention, float(seconds), allowed)


def _retention(own: pd.DataFrame, grid: Grid) -> float:
    """The smallest retention of the attacked model relative to the released one, over its kinds; NaN if none is
    measured."""
    shares = []
    for selector in _retained(grid):
        rows = own[selected(own, selector)]
        released, attacked = (rows[rows["attacker"].isna() == side] for side in (True, False))
        last = attacked[attacked["step"] == attacked["step"].max()]
        if len(released) and len(last):
            shares.append(float(last["value"].mean() / max(released["value"].mean(), 1e-9)))
    return min(shares, default=float("nan"))
