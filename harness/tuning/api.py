"""`immunebench tune` from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import pandas as pd

from harness import tuned_file
from harness.execution import executors
from harness.files import claim, replacing, user_path, write_text
from harness.interrupts import contained
from harness.leaderboard.markdown import tabulated
from harness.leaderboard.tables import number
from harness.selection import Options, Selection
from harness.store import Store
from harness.submission import pack, read_write
from harness.submission.run_folder import RUN
from harness.suite_reader import load
from harness.tuned_file import TunedFile
from harness.tuning import plots, search
from harness.tuning.search import Search

TUNED, TRIALS = "tuned.yaml", "trials.csv"


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search. trials: a row for each trial. failed: why jobs failed, by key. text: the best trials as
    a table in Markdown. out: the folder with the files."""

    trials: pd.DataFrame = field(repr=False)
    failed: Mapping[str, str]
    text: str = field(repr=False)
    out: Path


@contained()
def tune(
    suite: str | Path,
    *,
    trials: int = 40,
    epsilon: float = 0.05,
    out: str | Path | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    **selection: Unpack[Options],
) -> Tuned:
    """Search settings of a suite's attackers against each of its defenses, on the tasks and seeds of its `tuning`.

    suite, store, workers: as for `harness.run`. trials: of each attacker against each defense, the first with the
    suite's own settings. epsilon: a trial counts only if the attacked model keeps at least 1 − epsilon of the released
    model's retention. out: folder for the results (default: results/tuned/SUITE). say: gets a line for each round.
    selection: the fields of `Selection`; `attackers` and `defenses` choose rows to tune. Raises `UsageError` before
    anything is computed.
    """
    chosen = load(suite, Selection.of(**selection), tuning=True)
    folder = claim(user_path(out or Path("results/tuned") / chosen.name).absolute(), f"tuning of {chosen.name}")
    artifacts = Store(store)
    executor = executors.local(workers)
    searches = search.searches(chosen, epsilon)
    try:
        plan, failed = search.run(chosen, searches, trials, artifacts, executor, say)
    finally:
        executor.stop(at_once=False)
    table = trial_table(searches)
    submission = pack.pack(plan, artifacts, failed, pack.opening(plan, artifacts))
    settings: dict[str, dict[str, dict[str, object]]] = {}
    for one in searches:
        defense = next((sweep for sweep, rows in one.grid.sweeps.items() if one.defense in rows), one.defense)
        settings.setdefault(one.attacker, {})[defense] = dict(one.best.settings)
    tuned = TunedFile(
        format=1, suite=chosen.name, version=chosen.version, trials=trials, epsilon=epsilon, attackers=settings
    )
    with replacing(folder, f"tuning of {chosen.name}") as new:
        read_write.write(submission, new / RUN)
        tuned_file.write(tuned, new / TUNED)
        write_text(new / TRIALS, table.to_csv(index=False))
        plots.best_so_far(table, new)
    return Tuned(table, failed, tabulated(best_table(searches)), folder)


def trial_table(searches: Sequence[Search]) -> pd.DataFrame:
    """A row for each trial: its grid, attacker and defense, number, score, best score so far, retention, whether it is
    allowed, seconds, and the searched fields."""
    rows = [
        {
            "grid": one.grid.name, "attacker": one.attacker, "defense": one.defense, "trial": trial.number,
            "score": trial.score, "best": best, "retention": trial.retention, "allowed": trial.allowed,
            "seconds": trial.seconds, **trial.settings,
        }
        for one in searches
        for trial, best in zip(
            one.trials, pd.Series([t.score if t.allowed else None for t in one.trials], dtype=float).cummax().ffill(),
            strict=True,
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def best_table(searches: Sequence[Search]) -> pd.DataFrame:
    """The best trial of each search beside the first, which has the suite's own settings."""
    return pd.DataFrame(
        {
            "grid": one.grid.name,
            "attacker": one.attacker,
            "defense": one.defense,
            "own settings": number(one.trials[0].score),
            "best": number(one.best.score),
            "trial": str(one.best.number),
            "settings": ", ".join(
                f"{name}={number(v) if isinstance(v, float) else v}" for name, v in one.best.settings.items()
            ),
        }
        for one in searches
    )
