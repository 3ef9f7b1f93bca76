"""Searches an attacker's settings against each defense of a suite, on the tasks and seeds of its grids' `tuning`.

Every trial is an ordinary row of a suite, so its cells are in the store, and a search that was stopped reads them
there and continues with the same trials: each trial follows from the seed and the trials before it. The undefended
model gets as many trials as each defense. A round runs one trial of every search, so that workers share the cells.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.execution import scheduler
from harness.execution.executors import Executor
from harness.plan import Plan, make
from harness.plugin import PluginSpec
from harness.registry import Registry, installed
from harness.stage import seed_of
from harness.store import Store
from harness.suite import Grid, Suite
from harness.track import PICTURES
from harness.tuning import trials
from harness.tuning.space import Range, search_space
from harness.tuning.trials import Trial


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
        self._own = {name: self.spec.params[name] for name in self.ranges}
        self._inside = all(bounds.contains(self._own[name]) for name, bounds in self.ranges.items())
        if self._inside:
            self._study.enqueue_trial(self._own)

    @property
    def best(self) -> Trial:
        """The allowed trial with the highest score, the earliest of equal ones; the suite's own setting if none is
        allowed."""
        allowed = [trial for trial in self.trials if trial.allowed]
        return max(allowed, key=lambda trial: trial.score, default=self.trials[0])

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """The next trial: optuna's, None for a setting of the suite outside the search space, and its settings."""
        if not self.trials and not self._inside:
            return None, self._own
        trial = self._study.ask()
        return trial, {name: bounds.suggest(trial, name) for name, bounds in self.ranges.items()}

    def tell(self, asked: Any, trial: Trial) -> None:
        """End a trial that `ask` began."""
        import optuna

        self.trials.append(trial)
        if asked is None:
            return
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
    swept defense for its middle strength. Raises `UsageError` if there are none, or two of one attacker and defense."""
    registry = installed().with_files(suite.plugins)
    found: dict[tuple[str, str], Search] = {}
    for grid in suite.grids:
        for attacker, spec in grid.attackers.items():
            ranges = search_space(registry.get("attacker", spec.name).load())
            for row in _defenses(grid) if ranges else ():
                if (attacker, row) in found:
                    other = found[attacker, row].grid.name
                    raise UsageError(
                        f"grids '{other}' and '{grid.name}' would both search settings of '{attacker}' against "
                        f"'{row}', and a file of tuned settings has one: choose a grid with --grid"
                    )
                found[attacker, row] = Search(grid, attacker, row, spec, ranges, epsilon)
    if not found:
        raise UsageError(f"suite '{suite.name}' has no attacker with a search space among those to tune")
    return list(found.values())


def _defenses(grid: Grid) -> Iterator[str]:
    """The rows to search against."""
    left_out = {row for rows in grid.sweeps.values() for row in rows if row != rows[len(rows) // 2]}
    yield from (row for row in grid.defenses if row not in left_out)


class Rounds:
    """Runs rounds of trials: all that are asked for at once, so that workers share the cells.

    suite: loaded for tuning. store: of artifacts. executor: stays as it is.
    """

    def __init__(self, suite: Suite, store: Store, executor: Executor) -> None:
        self.suite, self.failed = suite, dict[str, str]()
        self._store, self._executor = store, _Lasting(executor)
        self._registry: Registry = installed().with_files(suite.plugins)
        self._rows: list[Grid] = []

    def run(self, tried: Sequence[tuple[Search, str, str, int, Mapping[str, Any]]]) -> list[Trial]:
        """Run trials. tried: of each the search that has its ranges, the defense, the label of the row, and the trial's
        number and settings."""
        parts = [
            trials.grid_of(one.grid, one.attacker, defense, {label: self._spec(one, settings)})
            for one, defense, label, _, settings in tried
        ]
        plan = self._plan(trials.merged(parts))
        self.failed |= scheduler.run(plan, self._store, self._executor)
        self._rows = trials.merged([*self._rows, *parts])
        records = trials.values(plan, self._store, self.failed)
        return [
            trials.trial(
                part, label, trials.outcome(one.grid, one.attacker), one.epsilon, records, number, settings
            )
            for (one, _, label, number, settings), part in zip(tried, parts, strict=True)
        ]  # fmt: skip

    @contextlib.contextmanager
    def keeping_released(self, found: Sequence[Search]) -> Iterator[None]:
        """Within the block the released models that the searches attack stay in the store from round to round."""
        released = self._plan(trials.merged([trials.grid_of(one.grid, one.attacker, one.defense, {}) for one in found]))
        transient = {job.key for job in released.jobs.values() if job.transient}
        with self._store.pin(transient) as name:
            yield
            for key in transient - self._store.pinned(besides=name):
                self._store.discard(key)

    @property
    def plan(self) -> Plan:
        """The plan of all cells so far."""
        return self._plan(self._rows)

    def _plan(self, grids: list[Grid]) -> Plan:
        """The plan of `grids` without pictures."""
        plan = make(self.suite.model_copy(update={"grids": grids}))
        return plan.part({cell.job.key for cell in plan.cells if cell.coordinates["measured_by"] != PICTURES})

    def _spec(self, search: Search, settings: Mapping[str, Any]) -> PluginSpec:
        where = f"attacker '{search.attacker}' against '{search.defense}'"
        return self._registry.get("attacker", search.spec.name).spec({**search.spec.params, **settings}, where)


class _Lasting:
    """An executor that a run does not stop unless it is interrupted, so that its workers last for the next round."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.separate, self.workers, self.submit = executor.separate, executor.workers, executor.submit

    def stop(self, at_once: bool) -> None:
        """Stop the workers if they are to be killed."""
        if at_once:
            self._executor.stop(at_once)


def run(rounds: Rounds, found: Sequence[Search], count: int, say: Callable[[str], None] = lambda line: None) -> None:
    """Run `count` trials of each search. say: gets a line for each round."""
    for number in range(count):
        asked = [search.ask() for search in found]
        done = rounds.run(
            [
                (search, search.defense, f"{search.attacker} {number}", number, settings)
                for search, (_, settings) in zip(found, asked, strict=True)
            ]
        )
        for search, (trial, _), reached in zip(found, asked, done, strict=True):
            search.tell(trial, reached)
        best = ", ".join(
            f"{search.attacker} on {search.defense} {search.best.score:.3f}"
            f"{'' if search.best.allowed else ' (keeps too little)'}"
            for search in found
        )
        say(f"trial {number + 1} of {count}: best so far {best}")
