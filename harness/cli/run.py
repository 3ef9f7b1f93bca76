"""`immunebench run`, `attack`, `plan` and `release`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import SuiteName, Timeout, Workers, selection_options
from harness.errors import UsageError, nearest
from harness.files import user_path
from harness.interrupts import Stopped
from harness.labels import file_stem
from harness.selection import Selection

Force = Annotated[bool, typer.Option("--force", help="Replace a finished run of another part of the suite.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but failures.")]

if TYPE_CHECKING:
    from harness.result import Result


@selection_options()
def run(
    suite: SuiteName,
    out: Annotated[
        Path | None,
        typer.Option(parser=user_path, metavar="DIR", help="Folder for the results (default: results/runs/SUITE)."),
    ] = None,
    workers: Workers = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address of a Dask scheduler, or local:N for N processes."),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Require a GPU for GPU jobs.")] = False,
    timeout: Timeout = None,
    force: Force = False,
    quiet: Quiet = False,
    keep_weights: Annotated[bool, typer.Option("--keep-weights", help="Keep released models in the store.")] = False,
    *,
    selection: Selection,
) -> None:
    """Run a suite and make its leaderboard; finished jobs are read from the store.

    Exit code 1: some cells failed.
    """
    folder = out or Path("results/runs") / _name(suite, selection)
    options = {"workers": workers, "cluster": cluster, "gpu": gpu, "timeout": timeout, "keep": keep_weights}
    _run(suite, folder, selection, quiet, force=force, **options)


@selection_options("grids", "tasks", "attackers", "seeds", "settings", "plugins", "base")
def attack(
    checkpoint: Annotated[
        str, typer.Argument(metavar="[NAME=]DIR", help="Folder of a released model, with safetensors.")
    ],
    suite: Annotated[str, typer.Option(metavar="SUITE", help="A suite's name, or a YAML file.")] = "styles",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=user_path, metavar="DIR", help="Folder for the results (default: results/runs/attack-NAME-SUITE)."
        ),
    ] = None,
    workers: Workers = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Require a GPU for GPU jobs.")] = False,
    timeout: Timeout = None,
    force: Force = False,
    quiet: Quiet = False,
    *,
    selection: Selection,
) -> None:
    """Attack a released model with a suite's attackers, next to the undefended model: `run SUITE --defense none
    --checkpoint DIR`.

    Exit code 1: some cells failed.
    """
    chosen = selection.model_copy(update={"defenses": ("none",), "checkpoints": (checkpoint,)})
    (name,) = chosen.folders
    folder = out or Path("results/runs") / file_stem(f"attack-{name}-{_name(suite, selection)}")
    _run(suite, folder, chosen, quiet, force=force, workers=workers, gpu=gpu, timeout=timeout)


def _name(suite: str, selection: Selection) -> str:
    """The name of a suite on its base model."""
    from harness.suite_file import find, read

    return f"{read(find(suite)).name}{f'@{selection.base}' if selection.base else ''}"


def _run(suite: str, folder: Path, selection: Selection, quiet: bool, **options: Any) -> None:
    """Run a suite, write its results into `folder` and print its board, if not `quiet`. options: of `harness.run`."""
    from harness import api
    from harness.execution.progress import Display

    start = time.perf_counter()
    try:
        with Display(quiet=quiet) as display:
            result = api.run(suite, out=folder, progress=display, **options, **dict(selection))
    except Stopped as stop:
        print("stopped; finished jobs are kept: run the same command to continue", file=sys.stderr)
        raise typer.Exit(stop.exit_code) from None
    if not quiet:
        _show(result, folder, time.perf_counter() - start)
    if result.failed:
        notes = result.records.loc[result.records["status"] == "failed", "note"]
        print(f"{len(notes)} cells failed:", file=sys.stderr)
        for reason, count in notes.value_counts().head(5).items():
            print(f"  {count} × {reason}", file=sys.stderr)
        raise typer.Exit(1)


def _show(result: Result, folder: Path, seconds: float) -> None:
    """Print the board of a run: for a terminal its summary, for a pipe or a file all of it as Markdown."""
    print(f"\n{result.summary() if sys.stdout.isatty() else result.text}\n")
    for name, reason in result.left_out.items():
        print(f"Grid {name} is left out: {reason}")
    print(f"{len(result.records)} records in {seconds:.0f} s; results are in {folder}/")
    print("All tables and settings: leaderboard.md. Flags: `immunebench list flags`")


@selection_options()
def plan(
    suite: SuiteName,
    workers: Workers = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Count hours, memory and disk on a device (A100, RTX4090, …); takes minutes."
        ),
    ] = None,
    *,
    selection: Selection,
) -> None:
    """Show what a run would do: its cells and jobs, how many the store has, and the estimated time for the others."""
    from harness.demands import DEVICES, lines
    from harness.execution.estimates import Estimates
    from harness.execution.executors import default_workers
    from harness.execution.progress import duration
    from harness.plan import available, demands, fetches, make
    from harness.store import Store
    from harness.suite_reader import load

    if device is not None and device not in DEVICES:
        raise UsageError(f"unknown device '{device}'; {nearest(device, list(DEVICES))}")
    present, left_out = load(suite, selection), dict[str, str]()
    if device is None:  # what is counted for a device need not be here
        present, left_out = available(present)
    plan = make(present)
    store = Store()
    missing = plan.missing(store)
    to_run = Counter(job.name for job in missing.values())
    print(f"{plan.suite.name} version {plan.suite.version}: {len(plan.cells)} cells, {len(plan.jobs)} jobs")
    for stage, count in Counter(job.name for job in plan.jobs.values()).items():
        print(f"  {stage:16} {count:6} jobs, {to_run[stage]:6} to run")
    for grid in plan.suite.grids:
        for note in grid.notes:
            print(f"{grid.name}: {note}")
    for name, reason in left_out.items():
        print(f"grid {name} is left out: {reason}")
    if commands := fetches(plan.suite):
        print(f"to download first: {'; '.join(commands)}")
    if device is not None:
        print("\n".join(lines(demands(plan, missing.values()), DEVICES[device], workers or 1)))
        return
    workers = workers or default_workers()
    estimates = Estimates.here(store.ledger(lambda line: print(line, file=sys.stderr)))
    seconds = estimates.total(missing.values())
    estimate = "unknown, since a stage has no known cost" if seconds is None else duration(seconds / workers)
    print(f"{len(missing)} jobs to run; estimated time on {workers} workers: {estimate}")
    if seconds and (borrowed := estimates.borrowed(missing.values())):
        print(f"  {borrowed} jobs are estimated from costs on another machine (two CPU cores, 2026)")


@selection_options("grids", "settings", "plugins", "base")
def release(
    suite: SuiteName,
    defense: Annotated[
        str, typer.Argument(metavar="DEFENSE", help="A defense row of the suite, or another plugin's name.")
    ],
    out: Annotated[Path, typer.Argument(parser=user_path, metavar="DIR", help="Folder to write.")],
    task: Annotated[str | None, typer.Option(metavar="LABEL", help="A task of the suite (default: the first).")] = None,
    seed: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="A seed of the suite (default: the first).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another released model in the folder.")] = False,
    *,
    selection: Selection,
) -> None:
    """Save a released model as files that its library loads, for example a pipeline folder for diffusers."""
    from harness import api

    api.release(suite, defense, out, task=task, seed=seed, force=force, **dict(selection))
    print(f"saved in {out}/")
