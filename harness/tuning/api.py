"""`immunebench tune` from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import pandas as pd

from harness import tuned_file
from harness.execution import executors
from harness.files import claim, replacing, user_path, write_text
from harness.interrupts import contained
from harness.leaderboard.boards import as_csv
from harness.leaderboard.markdown import tabulated
from harness.leaderboard.searches import CAPTIONS, OWN, TRANSFER, TRIALS, SearchTables
from harness.selection import Options, Selection
from harness.store import Store
from harness.submission import pack, read_write
from harness.submission.run_folder import RUN
from harness.suite_reader import load
from harness.tuned_file import TunedFile
from harness.tuning import plots, search, tables, transfer

TUNED, README, TRIALS_PICTURE = "tuned.yaml", "README.md", "trials.png"


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search. trials: a row for each trial. transfers: a row for each setting on each defense. failed:
    why jobs failed, by key. text: the tables in Markdown. out: the folder with the files."""

    trials: pd.DataFrame = field(repr=False)
    transfers: pd.DataFrame = field(repr=False)
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
    rounds = search.Rounds(chosen, artifacts, executor)
    try:
        with rounds.keeping_released(searches):
            search.run(rounds, searches, trials, say)
            transfers = transfer.run(rounds, searches)
    finally:
        executor.stop(at_once=False)
    plan = rounds.plan
    submission = pack.pack(plan, artifacts, rounds.failed, pack.opening(plan, artifacts))
    settings: dict[str, dict[str, dict[str, object]]] = {}
    for one in searches:
        rows = settings.setdefault(one.attacker, {OWN: dict(one.trials[0].settings)})
        rows[one.grid.family(one.defense)] = dict(one.best.settings)
    tuned = TunedFile(
        format=1, suite=chosen.name, version=chosen.version, trials=trials, epsilon=epsilon, attackers=settings
    )
    found = SearchTables(chosen.name, tables.trial_table(searches), tables.transfer_table(transfers))
    text = "\n\n".join([
        CAPTIONS["best"], tabulated(found.best()),
        CAPTIONS["transfer"], tabulated(found.transfer()),
        tables.ENSEMBLE, tabulated(tables.member_table(transfer.ensemble(transfers))),
        found.cost(),
    ])  # fmt: skip
    with replacing(folder, f"tuning of {chosen.name}") as new:
        read_write.write(submission, new / RUN)
        tuned_file.write(tuned, new / TUNED)
        write_text(new / TRIALS, as_csv(found.trials))
        write_text(new / TRANSFER, as_csv(found.transfers))
        write_text(
            new / README, f"# Tuned attackers of {chosen.name}\n\n![best score so far]({TRIALS_PICTURE})\n\n{text}\n"
        )
        plots.best_so_far(found.trials, new)
    return Tuned(found.trials, found.transfers, rounds.failed, text, folder)
