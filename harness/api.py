"""The harness from Python: `run` a suite, `release` a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import Field

from harness.errors import UsageError, nearest
from harness.files import claim, contents, replacing, user_path
from harness.importing import refuse_within
from harness.interrupts import contained
from harness.labels import FrozenModel
from harness.result import Result
from harness.selection import Integer, Options, Selection, checked

if TYPE_CHECKING:
    from harness.execution.scheduler import Progress
    from harness.plan import Plan
    from harness.store import Store


RELEASED = "a released model"
"""How the owner of the files of `release` begins, see `harness.files.claim`."""


class _Limits(FrozenModel):
    """Numbers that a call takes."""

    workers: Integer = Field(None, ge=1)
    timeout: float | None = Field(None, gt=0)
    seed: Integer = Field(None, ge=1)


@contained()
def run(
    suite: str | Path,
    *,
    out: str | Path | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    gpu: bool = False,
    timeout: float | None = None,
    keep: bool = False,
    force: bool = False,
    progress: Progress | bool = True,
    **selection: Unpack[Options],
) -> Result:
    """Run a suite and make its leaderboard. Jobs that the store has are not run again.

    suite: a suite's name or the path of a YAML file. out: folder for the submission and the board; the files of an
    earlier run of the same part of the suite in it are replaced, other files stay. force: replace those of a run of
    another part too. store: folder of
    artifacts (default: `$IMMUNEBENCH_STORE`, else the user's cache). workers: local processes (default: one for each
    GPU, else one for each core; 1 runs the jobs in this process, unless there is a `timeout`). cluster: instead of
    local workers the address of a Dask scheduler, or `local:N`. gpu: require a GPU for GPU jobs. timeout: seconds for
    each job. keep: keep released models in the store. progress: True shows the progress of the run, on the error output
    or in the notebook; False: nothing; else gets callbacks. selection: which part of the suite to run, and with which
    changes; the fields of `Selection`.

    Returns the run's `Result`. A grid that needs a data set or weights that this machine lacks is left out, see
    `Result.left_out`. Raises `UsageError` before anything is computed, and `RunError` if the store or the cluster
    fails. A failed cell raises nothing: it is in the records with its reason.
    """
    from harness.execution import executors, scheduler
    from harness.plan import available, fetches, make
    from harness.store import Store
    from harness.submission import pack, run_folder
    from harness.suite_reader import load

    refuse_within("harness.run")
    limits = checked(_Limits, {"workers": workers, "timeout": timeout})
    present, left_out = available(load(suite, Selection.of(**selection)))
    plan = make(present)
    folder = None if out is None else run_folder.claim_for(plan, user_path(out).absolute(), force)
    artifacts = Store(store)
    with _shown(progress) as display:
        for grid in plan.suite.grids:
            for note in grid.notes:
                display.say(f"{grid.name}: {note}")
        for name, reason in left_out.items():
            display.say(f"grid {name} is left out: {reason}")
        if commands := fetches(plan.suite):
            display.say(f"to download first: {'; '.join(commands)}")
        executor = executors.choose(limits.workers, cluster, gpu, display.say, separate=limits.timeout is not None)
        opening = pack.opening(plan, artifacts)
        with artifacts.pin({cell.job.key for cell in plan.cells}):  # until they are packed
            failed = scheduler.run(plan, artifacts, executor, display, keep, limits.timeout)
            return _report(plan, artifacts, failed, left_out, opening, folder)


def _shown(progress: Progress | bool) -> AbstractContextManager[Progress]:
    """The `progress` of `run` as what gets the callbacks."""
    from harness.execution import scheduler

    if progress is not True:
        return nullcontext(progress or scheduler.Progress())
    from rich.console import Console

    from harness.execution.progress import Display

    # To rich a notebook is no terminal, and what is live needs ipywidgets there.
    live = Console().is_jupyter and find_spec("ipywidgets") is not None
    return Display(Console(stderr=True, highlight=False, force_terminal=live or None))


def _report(
    plan: Plan,
    store: Store,
    failed: Mapping[str, str],
    left_out: Mapping[str, str],
    opening: Mapping[str, Any],
    out: Path | None,
) -> Result:
    """Pack the run's submission and derive its records and board; write all three into `out`, if it is given."""
    from harness.leaderboard import boards
    from harness.submission import pack, read_write, run_folder

    submission = pack.pack(plan, store, failed, opening)
    records = submission.records(plan.suite)
    board = boards.make(records)
    if out is not None:
        with run_folder.replacing(out, plan.suite, run=True) as new:
            read_write.write(submission, new / run_folder.RUN)
            records.export(new / run_folder.RECORDS)
            pack.copy_pictures(plan, store, failed, new)
            boards.write(board, new, [out / name for name, _ in submission.pictures()], out)
    return Result(board, failed, left_out, out)


@contained()
def release(
    suite: str | Path,
    defense: str,
    out: str | Path,
    *,
    task: str | None = None,
    seed: int | None = None,
    store: str | Path | None = None,
    force: bool = False,
    **selection: Unpack[Options],
) -> None:
    """Save a released model of a suite as files that its library loads: a text-to-image model as a pipeline folder for
    diffusers. The model is computed first if the store lacks it.

    suite: as for `run`. defense: label of the suite's row (of a swept one with the strength, as on a board), or name of
    another plugin. out: the folder to write. task: label of the task (default: the suite's first task). seed: one of
    the suite's seeds (default: the smallest). store, selection: as for `run`. force: replace another released model in
    `out`. Raises `UsageError` if the suite has no such task or seed, or several rows of a swept defense, if two of its
    grids have different models of it, if the track saves no models, or if `out` cannot be written, has other files than
    those of a released model or, without `force`, has another released model.
    """
    from harness.execution.worker import ensure
    from harness.plan import released, repetitions
    from harness.registry import installed
    from harness.store import Store
    from harness.suite_reader import load
    from harness.track import Track

    refuse_within("harness.release")
    asked = load(suite, Selection.of(**{**selection, "defenses": [defense.partition("@")[0]]}))
    grids = [grid for grid in asked.grids if defense in grid.defenses]
    if not grids:
        rows = dict.fromkeys(label for grid in asked.grids for label in grid.defenses)
        raise UsageError(f"suite '{asked.name}' has several rows of '{defense}'; give one of them: {', '.join(rows)}")
    registry = installed().with_files(asked.plugins)
    tracks = {grid.name: registry.track(grid.track) for grid in grids}
    models = [(grid, repetition) for grid in grids for repetition in repetitions(grid, tracks[grid.name])]
    tasks = list(dict.fromkeys(repetition.task.label for _, repetition in models))
    task = tasks[0] if task is None else task
    if task not in tasks:
        place = f"suite '{asked.name}' has no task '{task}' with the defense '{defense}'"
        raise UsageError(f"{place}; {nearest(task, tasks)}")
    models = [(grid, repetition) for grid, repetition in models if repetition.task.label == task]
    seeds = sorted({repetition.seed for _, repetition in models})
    seed = checked(_Limits, {"seed": seed}).seed or seeds[0]
    if seed not in seeds:
        raise UsageError(f"suite '{asked.name}' has no seed {seed}; there are: {', '.join(map(str, seeds))}")
    jobs = {
        grid.name: released(tracks[grid.name], repetition, grid.defenses[defense])
        for grid, repetition in models
        if repetition.seed == seed
    }
    if len({job.key for job in jobs.values()}) > 1:
        raise UsageError(f"the grids {', '.join(jobs)} have different models of task '{task}': select one by --grid")
    grid, model = next(iter(jobs.items()))
    if type(tracks[grid]).save_model is Track.save_model:
        raise UsageError(f"track '{tracks[grid].name}' saves no models")
    folder = user_path(out).absolute()
    owner = f"{RELEASED} ({defense}, task {task}, seed {seed}, key {model.key[:12]})"
    other = contents(folder)[0] or owner
    of_model = other.startswith(RELEASED)
    if of_model and other != owner and not force:
        raise UsageError(f"{folder} holds {other}: --force replaces it")
    claim(folder, other if of_model else owner)
    artifact = ensure(model, Store(store))
    with replacing(folder, owner) as new:
        tracks[grid].save_model(model, artifact, new)
