"""`immunebench list`, `show`, `check` and `new`: plugins, suites and ensembles."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Plugins
from harness.errors import UsageError, nearest

if TYPE_CHECKING:
    from harness.metric import Quantity
    from harness.plugin import Plugin
    from harness.registry import Registry


class Listing(StrEnum):
    """What can be listed."""

    defenses = "defenses"
    attackers = "attackers"
    metrics = "metrics"
    suites = "suites"
    ensembles = "ensembles"
    tracks = "tracks"
    flags = "flags"


class Kind(StrEnum):
    """Kinds of plugins."""

    defense = "defense"
    attacker = "attacker"
    metric = "metric"


class Shown(StrEnum):
    """What can be shown."""

    defense = "defense"
    attacker = "attacker"
    metric = "metric"
    suite = "suite"
    ensemble = "ensemble"
    track = "track"
    flag = "flag"


def list_(
    what: Annotated[
        Listing, typer.Argument(metavar="WHAT", help="defenses, attackers, metrics, suites, ensembles, tracks or flags")
    ],
    track: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this track.")] = None,
) -> None:
    """List plugins, suites, ensembles of attackers, tracks or the flags of boards."""
    from harness.registry import installed

    if track is not None:
        installed().get("track", track)
    rows = [row for row in _rows(what) if track is None or {track, "any"} & {*row[1].split("+")}]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for name, track, summary in rows:
        print(f"{name:{widths[0]}}  {track:{widths[1]}}  {summary}")


def _rows(what: Listing) -> Iterator[tuple[str, str, str]]:
    """Name, track (if any) and summary of each thing to list."""
    from harness.registry import installed

    if what is Listing.flags:
        from harness.leaderboard.flags import FLAGS

        yield from ((flag.name, "", flag.meaning) for flag in FLAGS.values())
    elif what is Listing.suites:
        from harness.suite_file import read

        for entry in installed().all("suite"):
            suite = read(Path(str(entry.file)))
            yield entry.name, "+".join(sorted({grid.track for grid in suite.grids})), suite.title
    elif what is Listing.ensembles:
        from harness import ensemble

        for entry in installed().all("ensemble"):
            tracks = ensemble.read(Path(str(entry.file))).tracks
            members = {label: None for part in tracks.values() for label in part.attackers}
            yield entry.name, "+".join(sorted(tracks)), ", ".join(members)
    elif what is Listing.tracks:
        yield from ((entry.name, entry.name, entry.about["summary"]) for entry in installed().all("track"))
    else:
        for entry in installed().all(what.value.removesuffix("s")):
            yield entry.name, entry.about["track"], entry.about["summary"]
        if what is Listing.metrics:
            from harness.costs import COSTS

            yield from ((quantity.name, "any", quantity.description) for quantity in COSTS)


def show(
    kind: Annotated[
        Shown, typer.Argument(metavar="KIND", help="defense, attacker, metric, suite, ensemble, track or flag")
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name, in any case; of a metric also the name of a quantity.")
    ],
    plugin: Plugins = [],
) -> None:
    """Show a plugin: its docstring, fields with defaults, presets and origin, and what a metric measures; or a suite,
    an ensemble of attackers, a track or a flag."""
    from harness.registry import installed

    registry = installed().with_files(plugin)
    if kind is Shown.flag:
        _show_flag(name)
    elif kind is Shown.suite:
        _show_suite(name)
    else:
        name = _in_any_case(name, [entry.name for entry in registry.all(kind.value)])
        if kind is Shown.ensemble:
            _show_ensemble(name, registry)
        elif kind is Shown.track:
            _show_track(name, registry)
        else:
            _show_plugin(Kind(kind.value), name, registry)


def _in_any_case(name: str, names: Iterable[str]) -> str:
    """The one of `names` that is `name` but for its case; else `name`."""
    return next((one for one in names if one.casefold() == name.casefold()), name)


def _show_flag(name: str) -> None:
    from harness.leaderboard.flags import FLAGS

    name = _in_any_case(name, FLAGS)
    if name not in FLAGS:
        raise UsageError(f"unknown flag '{name}'; {nearest(name, list(FLAGS))}")
    print(f"flag {name}\n\nMeaning: {FLAGS[name].meaning}.\nAdvice: {FLAGS[name].advice}.")


def _show_suite(name: str) -> None:
    from harness.suite_file import find, read

    suite = read(find(name))
    print(f"suite {suite.name} version {suite.version}: {suite.title}\n")
    print(fill(suite.description, 100) + "\n")
    for grid in suite.grids:
        seeds = len(grid.seeds or suite.seeds)
        print(f"grid {grid.name} (track {grid.track}), {seeds} seed{'s' * (seeds > 1)}")
        for kind, rows in (("defenses", grid.defenses), ("attackers", grid.attackers)):
            ensemble = [f"ensemble {grid.ensemble}"] if kind == "attackers" and grid.ensemble else []
            print(f"  {kind}: {', '.join([*rows, *ensemble]) or 'none'}")


def _show_ensemble(name: str, registry: Registry) -> None:
    from harness.ensemble import read

    ensemble = read(Path(str(registry.get("ensemble", name).file)))
    print(f"ensemble {ensemble.name} {ensemble.version}\n")
    print(fill(ensemble.rule, 100) + "\n")
    for track, members in ensemble.tracks.items():
        print(f"track {track}\n  attackers: {', '.join(members.attackers)}")
        for label, model in members.threat_models.items():
            print(f"  threat model {label}: {', '.join(model.attackers)}")


def _show_track(name: str, registry: Registry) -> None:
    entry = registry.get("track", name)
    track = entry.load()
    print(f"track {name}, from {entry.origin}\n\n{inspect.getdoc(track)}\n")
    for kind in Kind:
        names = [one.name for one in registry.all(kind.value) if one.about["track"] in (name, "any")]
        print(f"{kind.value}s: {', '.join(names)}")
    print(f"metrics of every grid: {', '.join(track.metrics)}")


def _show_plugin(kind: Kind, name: str, registry: Registry) -> None:
    from harness.fields import fields

    if kind is Kind.metric and name not in [entry.name for entry in registry.all("metric")]:
        _print_quantities(_quantities(name, registry))
        return
    entry = registry.get(kind.value, name)
    cls = entry.load()
    print(f"{cls.kind} {name} (track {cls.track}), from {entry.origin}\n\n{inspect.getdoc(cls)}\n")
    if kind is Kind.metric:
        print(f"Measured on the {cls.measures} model.\n")
        _print_quantities(cls.quantities)
    rows = fields(cls)
    print("fields:" if rows else "no fields")
    for field in rows:
        print(f"  {field.name}: {field.type} = {field.default}{f'  [{field.bounds}]' if field.bounds else ''}")
        if field.description:
            print(f"      {field.description}")
    for preset, values in cls.presets.items():
        print(f"preset {preset}: {', '.join(f'{key}={value!r}' for key, value in values.items())}")


def _quantities(name: str, registry: Registry) -> list[Quantity]:
    """The quantities of a name, in any case, that metrics and the engine measure, one for each track; raises
    `UsageError` for an unknown name."""
    from harness.costs import COSTS

    metrics = registry.all("metric")
    likely = [entry for entry in metrics if entry.mentions(name)]  # importing all takes ten times as long
    for entries in (likely, metrics):
        every = [*COSTS, *(quantity for entry in entries for quantity in entry.load().quantities)]
        if found := [quantity for quantity in dict.fromkeys(every) if quantity.name.casefold() == name.casefold()]:
            return found
    names = [*(quantity.name for quantity in every), *(entry.name for entry in metrics)]
    raise UsageError(f"unknown metric '{name}'; {nearest(name, names)}")


def _print_quantities(quantities: Iterable[Quantity]) -> None:
    from harness.cli.reference import describe_quantity

    for quantity in quantities:
        print("\n".join(f"{title}: {text}" for title, text in describe_quantity(quantity).items()) + "\n")


def new(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="defense, attacker or metric")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The plugin's name: small letters, digits and _.")],
    track: Annotated[str, typer.Option(metavar="NAME", help="Track of the plugin: probe, diffusion or deep.")],
    attacked: Annotated[
        bool, typer.Option("--attacked", help="Of a metric: measure the attacked model, not the released one.")
    ] = False,
    package: Annotated[bool, typer.Option("--package", help="Write an installable package with a test.")] = False,
) -> None:
    """Write a working plugin to start from: one file NAME.py, or a folder NAME with a package."""
    from harness.kit import scaffold

    path = scaffold.write(kind.value, name, track, Path.cwd(), package=package, attacked=attacked)
    print(f"wrote {path}; try `immunebench check {scaffold.plugin_file(path)}`")


def check(
    plugin: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A plugin file, or an installed plugin's name.")],
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the plugin's presets (default: its defaults).")
    ] = None,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Another value of a field; may be repeated.")
    ] = [],
) -> None:
    """Check that a plugin keeps the contract, on a tiny task of its track. Exit code 1: it has faults."""
    from harness.kit import Fault, checks
    from harness.registry import named

    faults = 0
    for entry in named(plugin):
        print(f"{entry.kind} {entry.name}")
        cls = entry.load()
        for check in checks(cls, preset, [entry.file] if entry.file else [], **_values(cls, settings)):
            try:
                check()
            except Fault as fault:
                faults += 1
                print(f"  FAULT  {check}: {fault}")
            else:
                print(f"  ok     {check}: {check.about}")
    raise typer.Exit(1 if faults else 0)


def _values(plugin: type[Plugin], settings: Iterable[str]) -> dict[str, Any]:
    """Values of a plugin's fields by name, from texts FIELD=VALUE; raises `UsageError` for another text."""
    from harness.fields import parse

    values = {}
    for text in settings:
        name, equals, value = text.partition("=")
        known = plugin.__pydantic_fields__
        if not equals or name not in known:
            raise UsageError(
                f"--set {text}: write FIELD=VALUE with a field of {plugin.__name__}; {nearest(name, list(known))}"
            )
        values[name] = parse(value, known[name], f"--set {text}")
    return values
