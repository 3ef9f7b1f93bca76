"""The command line: `immunebench`."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Attackers, Base, Defenses, Grids, Plugins, Seeds, Settings, SuiteName, Workers
from harness.cli.store import app as store_app
from harness.cli.submission import boards, leaderboard, submit, verify
from harness.errors import ImmuneBenchError

app = typer.Typer(
    help="Benchmark for model immunization: run suites of defenses against attackers, and make leaderboards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time of --help
)
app.add_typer(store_app, name="store")


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
    metric = "metric"


@app.command()
def run(
    suite: SuiteName,
    grid: Grids = [],
    defense: Defenses = [],
    attacker: Attackers = [],
    seeds: Seeds = None,
    settings: Settings = [],
    plugin: Plugins = [],
    base: Base = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; results/runs/SUITE by default.")] = None,
    workers: Workers = None,
    cluster: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, or local:N for N processes.")
    ] = None,
    gpu: Annotated[bool, typer.Option(help="Run what a GPU speeds up on one or not at all.")] = False,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds for a job, or it fails.")] = None,
    keep_weights: Annotated[bool, typer.Option(help="Keep the immunized weights in the store.")] = False,
) -> None:
    """Run a suite and make its leaderboard; finished jobs are taken from the store."""
    from harness import api
    from harness.execution.progress import Display

    folder = out or Path("results/runs") / "@".join([Path(suite).stem, *([base] if base else [])])
    began = time.perf_counter()
    try:
        with Display() as display:
            result = api.run(
                suite,
                grids=grid,
                defenses=defense,
                attackers=attacker,
                seeds=seeds,
                settings=settings,
                plugins=plugin,
                base=base,
                out=folder,
                workers=workers,
                cluster=cluster,
                gpu=gpu,
                timeout=timeout,
                keep=keep_weights,
                progress=display,
            )
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"\n{result.text}")
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
    grid: Grids = [],
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

    from harness.execution.costs import Costs
    from harness.execution.executors import default_workers
    from harness.execution.progress import duration
    from harness.plan import make
    from harness.store import Store
    from harness.suite import load

    made = make(
        load(
            suite,
            grids=grid,
            defenses=defense,
            attackers=attacker,
            seeds=seeds,
            settings=settings,
            plugins=plugin,
            base=base,
        )
    )
    store = Store()
    missing = made.missing(store)
    stages = Counter(job.stage for job in made.jobs.values())
    to_run = Counter(job.stage for job in missing.values())
    print(f"{made.suite.name} version {made.suite.version}: {len(made.cells)} cells, {len(made.jobs)} jobs")
    for stage, count in stages.items():
        print(f"  {stage:12} {count:6} jobs, {to_run[stage]:6} to run")
    workers = workers or default_workers()
    seconds = Costs(store.ledger()).total(missing.values())
    told = "unknown: no job of one of these stages was ever run here"
    if seconds is not None:
        told = duration(seconds / workers)
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
    from harness.registry import Catalogue

    catalogue = Catalogue()
    if what is Listing.metrics:
        rows = [
            (metric.name, entry.name, metric.description)
            for entry in catalogue.all("track")
            for metric in entry.load().metrics
        ]
        rows += [(entry.name, entry.about["track"], entry.about["summary"]) for entry in catalogue.all("metric")]
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
    kind: Annotated[Kind, typer.Argument(help="defense, attacker or metric")],
    name: Annotated[str, typer.Argument(help="its name")],
    plugin: Plugins = [],
) -> None:
    """Show a plugin: its docstring, fields with their defaults, presets and origin; or what a metric is."""
    from harness.cli.reference import described, fields
    from harness.registry import Catalogue

    catalogue = Catalogue(plugin)
    if kind is Kind.metric:
        tracks = [entry.load() for entry in catalogue.all("track")]
        own = [(of, track.name) for track in tracks for of in track.metrics if of.name == name]
        for metric, track in own:
            _print(described(metric, track))
        if own:
            return
    entry = catalogue.get(kind.value, name)
    cls = entry.load()
    print(f"{cls.kind} {name} (track {cls.track}), from {entry.origin}\n\n{inspect.getdoc(cls)}\n")
    if kind is Kind.metric:
        _print(described(cls.about))
    rows = fields(cls)
    print("fields:" if rows else "no fields")
    for of in rows:
        print(f"  {of.name}: {of.type} = {of.default}{f'  [{of.bounds}]' if of.bounds else ''}")
        if of.description:
            print(f"      {of.description}")
    for preset, values in cls.presets.items():
        print(f"preset {preset}: {', '.join(f'{key}={value!r}' for key, value in values.items())}")


def _print(told: Mapping[str, str]) -> None:
    print("\n".join(f"{title}: {text}" for title, text in told.items()) + "\n")


@app.command()
def new(
    kind: Annotated[Kind, typer.Argument(help="attacker or defense")],
    name: Annotated[str, typer.Argument(help="What people will type: small letters, digits and _.")],
    track: Annotated[str, typer.Option(help="probe or diffusion")],
    package: Annotated[bool, typer.Option("--package", help="A package to install, with a test.")] = False,
) -> None:
    """Begin a plugin: one file NAME.py that works, or a folder NAME with a package around it."""
    from harness.kit import scaffold

    path = scaffold.write(kind.value, name, track, Path.cwd(), package)
    print(f"{path}: now run `immunebench check {scaffold.plugin_file(path)}`")


@app.command()
def check(
    what: Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="A plugin file, or an installed plugin's name.")],
    preset: Annotated[str | None, typer.Option(help="Of the plugin's; by default its default settings.")] = None,
) -> None:
    """Try a plugin on a tiny task of its track and say in words what is wrong with it (exit code 1)."""
    from harness.kit import Fault, checks
    from harness.registry import named

    faults = 0
    for entry in named(what):
        print(f"{entry.kind} {entry.name}")
        for one in checks(entry.load(), preset, [entry.file] if entry.file else []):
            try:
                one()
            except Fault as fault:
                faults += 1
                print(f"  FAULT  {one}: {fault}")
            else:
                print(f"  ok     {one}: {one.about}")
    raise typer.Exit(1 if faults else 0)


@app.command()
def docs(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.")] = Path("site"),
    plugin: Plugins = [],
) -> None:
    """Build the documentation, with a page for each plugin that is installed here or in a file."""
    from harness.cli import reference

    reference.build(out, plugin)
    print(f"open {out}/index.html")


@app.command()
def site(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to.")] = Path("public"),
    source: Annotated[
        Path,
        typer.Option("--from", metavar="DIR", help="Folder of submissions, else of runs."),
    ] = Path("results"),
    plugin: Plugins = [],
) -> None:
    """Make the site of boards: pages that need no network."""
    from harness.site import build

    build(out, source, tuple(plugin))
    print(f"open {out}/index.html")


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


for command in (leaderboard, submit, verify, boards):
    app.command()(command)


def main() -> None:
    """Entry point: errors are one line; exit code 2 for wrong use, 1 for a run with holes, 130 after Ctrl-C."""
    try:
        app(standalone_mode=True)
    except ImmuneBenchError as error:
        print(f"immunebench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
