"""The command line: `immunebench`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import ImmuneBenchError

if TYPE_CHECKING:
    from harness.plan import Job, Plan
    from harness.runner import Outcome, Progress

app = typer.Typer(
    help="Benchmark for model immunization: run suites of defenses against attackers, and make leaderboards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time of --help
)


class Listing(StrEnum):
    """What can be listed."""

    defenses = "defenses"
    attackers = "attackers"
    suites = "suites"
    metrics = "metrics"


class Kind(StrEnum):
    """What can be shown."""

    defense = "defense"
    attacker = "attacker"


SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or a YAML file.")]
Defenses = Annotated[list[str], typer.Option("--defense", help="Only this row, or a further plugin. Repeatable.")]
Attackers = Annotated[list[str], typer.Option("--attacker", help="Only this row, or a further plugin. Repeatable.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds 1 … N instead of the suite's.")]
Settings = Annotated[list[str], typer.Option("--set", help="attackers.LABEL.FIELD=VALUE or defenses.… Repeatable.")]
Plugins = Annotated[list[Path], typer.Option("--plugin", help="A file with plugins of your own. Repeatable.")]
Base = Annotated[str | None, typer.Option("--base", help="One of the suite's other base models, e.g. v1-4.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Local processes; one a core by default.")]


@app.command()
def run(
    suite: SuiteName,
    defense: Defenses = [],
    attacker: Attackers = [],
    seeds: Seeds = None,
    settings: Settings = [],
    plugin: Plugins = [],
    base: Base = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; results/runs/SUITE by default.")] = None,
    workers: Workers = None,
    keep_weights: Annotated[bool, typer.Option(help="Keep the immunized weights in the store.")] = False,
) -> None:
    """Run a suite and make its leaderboard; finished jobs are taken from the store."""
    from harness import api
    from harness.leaderboard import markdown

    folder = out or Path("results/runs") / "@".join([Path(suite).stem, *([base] if base else [])])
    began = time.perf_counter()
    try:
        with _display() as progress:
            result = api.run(
                suite,
                defenses=defense,
                attackers=attacker,
                seeds=seeds,
                settings=settings,
                plugins=plugin,
                base=base,
                out=folder,
                workers=workers,
                keep=keep_weights,
                progress=progress,
            )
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    for table in result.tables.values():
        print(f"\n{markdown(table)}\n")
        print(table.attrs.get("caption", ""))
    print(f"\n{len(result.records)} records in {time.perf_counter() - began:.0f} s; all of it in {folder}/")
    if result.failed:
        cells = result.records[result.records["status"] != "ok"]
        reasons = cells["note"].value_counts()
        print(f"{len(cells)} cells are missing:", file=sys.stderr)
        for reason, count in reasons.head(5).items():
            print(f"  {count} × {reason}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def plan(
    suite: SuiteName,
    defense: Defenses = [],
    attacker: Attackers = [],
    seeds: Seeds = None,
    settings: Settings = [],
    plugin: Plugins = [],
    base: Base = None,
    workers: Workers = None,
) -> None:
    """Show what a run would do: cells, jobs, how many are in the store already, and how long the rest takes."""
    from collections import Counter

    from harness.plan import estimate, make
    from harness.runner import default_workers
    from harness.store import Store
    from harness.suite import load

    made = make(
        load(suite, defenses=defense, attackers=attacker, seeds=seeds, settings=settings, plugins=plugin, base=base)
    )
    store = Store()
    missing = made.missing(store)
    stages = Counter(job.stage for job in made.jobs.values())
    to_run = Counter(job.stage for job in missing.values())
    print(f"{made.suite.name} version {made.suite.version}: {len(made.cells)} cells, {len(made.jobs)} jobs")
    for stage, count in stages.items():
        print(f"  {stage:12} {count:6} jobs, {to_run[stage]:6} to run")
    workers = workers or default_workers()
    seconds = estimate(missing, store, workers)
    told = "unknown: no job of one of these stages was ever run here" if seconds is None else f"{_duration(seconds)}"
    print(f"{len(made.jobs) - len(missing)} need not run; estimated time on {workers} workers: {told}")


@app.command()
def release(
    suite: SuiteName,
    defense: Annotated[str, typer.Argument(help="One of its rows, or a further plugin.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.")],
    task: Annotated[str | None, typer.Option(help="Of the suite's tasks; the first by default.")] = None,
    seed: Annotated[int, typer.Option(min=1)] = 1,
    settings: Settings = [],
    plugin: Plugins = [],
    base: Base = None,
) -> None:
    """Save an immunized model as its ecosystem does: a text-to-image model as a pipeline folder for diffusers."""
    from harness import api

    api.release(suite, defense, out, task=task, seed=seed, settings=settings, plugins=plugin, base=base)
    print(f"saved in {out}/")


@app.command("list")
def list_(what: Annotated[Listing, typer.Argument(help="defenses, attackers, suites or metrics")]) -> None:
    """List plugins, suites or metrics."""
    from harness.catalogue import Catalogue

    catalogue = Catalogue()
    if what is Listing.metrics:
        rows = [
            (metric.name, entry.name, metric.description)
            for entry in catalogue.all("track")
            for metric in entry.load().metrics
        ]
    elif what is Listing.suites:
        from harness.suite import read

        rows = []
        for entry in catalogue.all("suite"):
            suite = read(Path(str(entry.file)))
            rows.append((entry.name, "+".join(sorted({grid.track for grid in suite.grids})), suite.title))
    else:
        rows = [
            (entry.name, entry.about["track"], entry.about["summary"])
            for entry in catalogue.all(what.value.removesuffix("s"))
        ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, track, summary in rows:
        print(f"{name:{widths[0]}}  {track:{widths[1]}}  {summary}")


@app.command()
def show(
    kind: Annotated[Kind, typer.Argument(help="defense or attacker")],
    name: Annotated[str, typer.Argument(help="its name")],
    plugin: Plugins = [],
) -> None:
    """Show a plugin: its docstring, fields with their defaults, presets and origin."""
    from harness.catalogue import Catalogue

    entry = Catalogue(plugin).get(kind.value, name)
    cls = entry.load()
    print(f"{cls.kind} {name} (track {cls.track}), from {entry.origin}\n\n{inspect.getdoc(cls)}\n")
    fields = dataclasses.fields(cls)
    print("fields:" if fields else "no fields")
    for field in fields:
        annotation = cls.__pydantic_fields__[field.name]
        type_name = getattr(annotation.annotation, "__name__", None) or str(annotation.annotation)
        if type_name in ("Literal", "Union", "Optional"):
            type_name = str(annotation.annotation).replace("typing.", "")
        limits = ", ".join(str(limit) for limit in annotation.metadata)
        print(f"  {field.name}: {type_name} = {annotation.default!r}{f'  [{limits}]' if limits else ''}")
        if annotation.description:
            print(f"      {annotation.description}")
    for preset, values in cls.presets.items():
        print(f"preset {preset}: {', '.join(f'{key}={value!r}' for key, value in values.items())}")


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that `run` wrote")],
) -> None:
    """Make a run's boards anew from its records."""
    from harness.leaderboard import markdown, render

    for table in render(folder)[1].values():
        print(markdown(table))
        print(f"\n{table.attrs.get('caption', '')}")


@app.command()
def train_base(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="where to; what is there already is not made again")],
    fashion: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's four idx .gz files.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each; must divide 32.")] = 2,
) -> None:
    """Train the small base and its encoders from scratch: an hour and more on two cores; resumes after a cut."""
    from harness.diffusion.small import recipe, world

    recipe.run(out, fashion=fashion or world.FASHION, seed=seed, processes=processes)


def main() -> None:
    """Entry point: errors are one line; exit code 2 for wrong use, 1 for a run with holes, 130 after Ctrl-C."""
    try:
        app(standalone_mode=True)
    except ImmuneBenchError as error:
        print(f"immunebench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@contextmanager
def _display() -> Iterator[Any]:
    """What makes a run's progress: a live bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from harness.runner import Progress

    console = Console(stderr=True)
    columns = [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")]
    bars = Bars(*columns, console=console, disable=not console.is_terminal)

    def make(plan: Plan) -> Progress:
        bar = bars.add_task("", total=None)
        told = time.monotonic()
        done = 0
        progress = Progress()

        def started(job: Job) -> None:
            bars.update(bar, total=progress.total, description=f"{job.stage}: {plan.describe(job)}")

        def finished(job: Job, outcome: Outcome) -> None:
            nonlocal told, done
            done += 1
            bars.update(bar, completed=done)
            if outcome.reason:
                console.print(f"failed: {job.stage}: {plan.describe(job)}: {outcome.reason}", highlight=False)
            if not console.is_terminal and time.monotonic() - told > 30:
                told = time.monotonic()
                console.print(f"{done} of {progress.total} jobs, {plan.describe(job)}", highlight=False)

        progress.started, progress.finished = started, finished
        return progress

    with bars:
        yield make


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    main()
