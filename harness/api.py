"""The main job as one call: a suite in, records and a board out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from harness.execution.scheduler import Progress


@dataclass(frozen=True)
class Result:
    """What a run gives. records: one row a measured figure. board: figures averaged, with intervals, long-form.
    standings: ranks, worst cases and flags, a row a grid and defense. tables: the readable table of each track's own
    figures. failed: reasons of the jobs that failed, by key. text: the readable board, as Markdown. out: the folder
    with the files, None if none were wanted."""

    records: pd.DataFrame = field(repr=False)
    board: pd.DataFrame = field(repr=False)
    standings: pd.DataFrame = field(repr=False)
    tables: dict[str, pd.DataFrame] = field(repr=False)
    failed: dict[str, str]
    text: str = field(repr=False)
    out: Path | None = None

    def _repr_html_(self) -> str:
        """The readable tables, in a notebook."""
        return "".join(f"<h3>{name}</h3>{table.to_html(index=False)}" for name, table in self.tables.items())


def run(
    suite: str,
    *,
    grids: Sequence[str] = (),
    defenses: Sequence[str] = (),
    attackers: Sequence[str] = (),
    seeds: int | None = None,
    settings: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    base: str | None = None,
    out: str | Path | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    gpu: bool = False,
    timeout: float | None = None,
    keep: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Run a suite, by name or YAML file, and make its leaderboard.

    grids: only these. defenses, attackers: only these rows (a plugin that is no row is added with its defaults).
    seeds: how many. settings: `"attackers.adam.lr=0.01"` and the like. plugins: plugin files. base: one of the suite's
    other base models. out: folder for the records and boards. store: folder of artifacts (default
    `$IMMUNEBENCH_STORE`, else the user's cache). keep: also keep the immunized weights. progress: is told how the run
    goes.

    workers: local processes (default one a GPU, else one a core; 1 runs here). cluster: instead, the address of a Dask
    scheduler, or `local:N`. gpu: what a GPU speeds up runs on one or not at all. timeout: seconds for a job.

    Raises `UsageError` before anything is computed, `RunError` if the store gives out. Failed cells do not raise:
    they are holes in the board, with their reasons in `failed`.
    """
    from harness import leaderboard, records
    from harness.execution import executors
    from harness.execution import scheduler as runner
    from harness.execution.dask_cluster import Cluster
    from harness.plan import make
    from harness.store import Store
    from harness.submission import pack as packing
    from harness.submission import read_write as submission
    from harness.suite import load

    asked = load(
        suite,
        grids=grids,
        defenses=defenses,
        attackers=attackers,
        seeds=seeds,
        settings=settings,
        plugins=plugins,
        base=base,
    )
    plan = make(asked)
    artifacts = Store(store)
    if cluster and workers:
        raise UsageError("either --workers, of this machine, or --cluster, which has its own")
    progress = progress or runner.Progress()
    executor = Cluster(cluster, gpu, progress.say) if cluster else executors.local(workers, gpu)
    folder = Path(out) if out is not None else None
    opening = packing.opening(plan, artifacts) if folder else {}
    failed = runner.run(plan, artifacts, executor, progress, keep, timeout)
    figures = records.collect(plan, artifacts, failed)
    published = leaderboard.read_published(asked.published) if asked.published else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        records.copy_pictures(plan, artifacts, failed, folder)
        made = leaderboard.write(figures, folder, published, asked.plugins)
        submission.write(packing.pack(plan, artifacts, failed, opening), folder / packing.RUN)
    else:
        made = leaderboard.make(figures, published, plugins=asked.plugins)
    return Result(figures, made.board, made.standings, made.tables, failed, made.markdown(), folder)


def release(
    suite: str,
    defense: str,
    out: str | Path,
    *,
    task: str | None = None,
    seed: int = 1,
    settings: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    base: str | None = None,
    store: str | Path | None = None,
) -> None:
    """Save the model that a defense of a suite releases as its ecosystem does (a text-to-image model: a pipeline
    folder for diffusers) into the folder `out`; it is immunized now if the store has it no more.

    task: of the suite's tasks, by default the first. seed: of the defense; one that draws nothing has one model for
    all. Raises `UsageError` if there is none such, or its track saves no models.
    """
    from harness.execution.scheduler import ensure
    from harness.plan import make
    from harness.store import Store
    from harness.suite import load

    plan = make(load(suite, defenses=[defense], settings=settings, plugins=plugins, base=base))
    cells = [cell for cell in plan.cells if cell.coordinates.get("attacker") is None]
    tasks = list(dict.fromkeys(cell.coordinates["task"] for cell in cells))
    if (task or tasks[0]) not in tasks:
        raise UsageError(f"suite '{plan.suite.name}' has no task '{task}'; {nearest(str(task), tasks)}")
    of_task = [cell for cell in cells if cell.coordinates["task"] == (task or tasks[0])]
    found = [cell for cell in of_task if cell.coordinates.get("seed") in (None, seed)]
    if not found:
        seeds = sorted({cell.coordinates["seed"] for cell in of_task})
        raise UsageError(f"suite '{plan.suite.name}' has no seed {seed}; there are: {', '.join(map(str, seeds))}")
    artifacts = Store(store)
    track = plan.suite.tracks[found[0].coordinates["track"]]
    track.release(found[0].job, lambda job: ensure(job, artifacts, plan.suite.plugins), Path(out))
