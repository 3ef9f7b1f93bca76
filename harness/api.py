"""The harness from Python: `run` a suite, `release` a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from harness.errors import UsageError, nearest
from harness.interrupts import contained
from harness.selection import Options, Selection

if TYPE_CHECKING:
    import pandas as pd

    from harness.execution.scheduler import Progress
    from harness.plan import Plan
    from harness.store import Store


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    records: one measured value a row, columns `harness.records.COLUMNS`. board: values averaged over tasks and seeds
    with their intervals, long form. standings: ranks, worst cases and flags, a row for each grid and defense. tables:
    the readable tables by grid. failed: why jobs failed, by key. text: the board as Markdown. out: the folder with all
    of it as files; None if none was asked for.
    """

    records: pd.DataFrame = field(repr=False)
    board: pd.DataFrame = field(repr=False)
    standings: pd.DataFrame = field(repr=False)
    tables: dict[str, pd.DataFrame] = field(repr=False)
    failed: Mapping[str, str]
    text: str = field(repr=False)
    out: Path | None = None

    def _repr_html_(self) -> str:
        """The readable tables, for a notebook."""
        return "".join(f"<h3>{name}</h3>{table.to_html(index=False)}" for name, table in self.tables.items())


@contained()
def run(
    suite: str,
    *,
    out: str | Path | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    gpu: bool = False,
    timeout: float | None = None,
    keep: bool = False,
    progress: Progress | None = None,
    **selection: Unpack[Options],
) -> Result:
    """Run a suite and make its leaderboard. Jobs that the store has are not run again.

    suite: a suite's name or the path of a YAML file. out: folder for the submission and the board. store: folder of
    artifacts (default: `$IMMUNEBENCH_STORE`, else the user's cache). workers: local processes (default: one for each
    GPU, else one for each core; 1 runs the jobs in this process, unless there is a `timeout`). cluster: instead of
    local workers the address of a Dask scheduler, or `local:N`. gpu: require a GPU for GPU jobs. timeout: seconds for
    each job. keep: keep released models in the store. progress: gets callbacks. selection: which part of the suite to
    run, and with which changes; the fields of `Selection`.

    Returns the run's `Result`. Raises `UsageError` before anything is computed, and `RunError` if the store or the
    cluster fails. A failed cell raises nothing: it is in the records with its reason.
    """
    from harness.execution import executors, scheduler
    from harness.plan import make
    from harness.store import Store
    from harness.submission import pack
    from harness.suite import load

    plan = make(load(suite, Selection.of(**selection)))
    folder = None if out is None else _writable(Path(out))
    artifacts = Store(store)
    progress = progress or scheduler.Progress()
    executor = executors.choose(workers, cluster, gpu, progress.say, separate=timeout is not None)
    opening = pack.opening(plan, artifacts)
    failed = scheduler.run(plan, artifacts, executor, progress, keep, timeout)
    return _report(plan, artifacts, failed, opening, folder)


def _writable(folder: Path) -> Path:
    """Create the folder `folder`; raises `UsageError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to the folder {folder}: {error.strerror}") from None
    return folder


def _report(
    plan: Plan, store: Store, failed: Mapping[str, str], opening: Mapping[str, Any], out: Path | None
) -> Result:
    """Pack the run's submission and derive its records and board; write all three into `out`, if it is given."""
    from harness.leaderboard import boards
    from harness.submission import pack, read_write

    submission = pack.pack(plan, store, failed, opening)
    records = submission.records(plan.suite)
    board = boards.make(records)
    if out is not None:
        read_write.write(submission, out / pack.RUN)
        records.export(out / "records.parquet")
        pack.copy_pictures(plan, store, failed, out)
        boards.write(board, out, [out / name for name, _ in submission.pictures()])
    return Result(records.frame, board.long, board.standings, board.tables, failed, board.markdown(), out)


@contained()
def release(
    suite: str,
    defense: str,
    out: str | Path,
    *,
    task: str | None = None,
    seed: int | None = None,
    store: str | Path | None = None,
    **selection: Unpack[Options],
) -> None:
    """Save a released model of a suite as files that its library loads: a text-to-image model as a pipeline folder for
    diffusers. The model is computed first if the store lacks it.

    suite: as for `run`. defense: label of the suite's row, or name of another plugin. out: the folder to write. task:
    label of the task (default: the suite's first task). seed: one of the suite's seeds (default: the smallest). store,
    selection: as for `run`. Raises `UsageError` if the suite has no such task or seed, or if the track saves no models.
    """
    from harness.execution.worker import ensure
    from harness.plan import repetitions
    from harness.registry import installed
    from harness.store import Store
    from harness.suite import load

    asked = load(suite, Selection.of(**{**selection, "defenses": [defense]}))
    registry = installed().with_files(asked.plugins)
    tracks = {grid.name: registry.track(grid.track) for grid in asked.grids}
    models = [(grid, repetition) for grid in asked.grids for repetition in repetitions(grid, tracks[grid.name])]
    tasks = list(dict.fromkeys(repetition.task.label for _, repetition in models))
    task = task or tasks[0]
    if task not in tasks:
        raise UsageError(f"suite '{asked.name}' has no task '{task}'; {nearest(task, tasks)}")
    seeds = {
        repetition.seed: (grid, repetition) for grid, repetition in reversed(models) if repetition.task.label == task
    }
    seed = seed or min(seeds)
    if seed not in seeds:
        raise UsageError(f"suite '{asked.name}' has no seed {seed}; there are: {', '.join(map(str, sorted(seeds)))}")
    grid, repetition = seeds[seed]
    model = tracks[grid.name].immunize(repetition, grid.defenses[defense])
    tracks[grid.name].save_model(model, ensure(model, Store(store)), Path(out))
