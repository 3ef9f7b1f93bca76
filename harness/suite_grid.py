"""Makes a grid to run from its tasks, protocol and rows, and checks that they fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from harness.costs import COST, COSTS
from harness.errors import UsageError, describe
from harness.labels import LONGEST_STEM, file_stem
from harness.metric import Metric
from harness.plugin import KINDS, PluginSpec
from harness.ranking import MEAN
from harness.registry import Registry
from harness.suite import Grid
from harness.track import PICTURES, Track


def describe_grid(registry: Registry, track: Track, tasks: Sequence[Any], protocol: Any, **fields: Any) -> Grid:
    """Make a grid, with its ranking, members and quantities from the track and the metrics.

    tasks, protocol: models of the track. fields: the grid's other fields. Raises `UsageError` if two tasks have the
    same label, if a metric has the label of run costs or pictures, or an attacker that of the mean, if two metrics are
    the same one of the track's own or define a quantity differently, if labels are no labels or make no names of files,
    or if the track finds that the tasks, the protocol and the plugins do not fit together.
    """
    where = f"grid '{fields['name']}'"
    metrics: dict[str, PluginSpec] = fields["metrics"]
    for label, count in Counter(task.label for task in tasks).items():
        if count > 1:
            raise UsageError(f"{where}: {count} tasks have the label '{label}'; put them into different grids")
    for label in (COST, PICTURES):
        if label in metrics:
            raise UsageError(f"{where}: no metric can have the label '{label}'; choose another")
    if MEAN in fields["attackers"]:
        raise UsageError(f"{where}: no attacker can have the label '{MEAN}', the mean over attackers; choose another")
    for name, count in Counter(spec.name for spec in metrics.values()).items():
        if count > 1 and name in track.metrics:
            raise UsageError(f"{where}: {count} metrics are '{name}', which the track's tables show once; keep one")
    quantities = [*COSTS]
    for spec in metrics.values():
        if spec.module:
            metric: type[Metric] = registry.get("metric", spec.name).load()
            quantities += metric.quantities
    for name, count in Counter(name for name, *_ in {quantity.identity for quantity in quantities}).items():
        if count > 1:
            raise UsageError(f"{where}: two metrics define '{name}' with different units, directions or scales")
    rows = {
        f"{kind} '{label}'": spec.build() for kind in KINDS for label, spec in fields[f"{kind}s"].items() if spec.module
    }
    try:
        notes = list(track.check(tasks, protocol, rows))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    try:
        grid = Grid(
            track=track.name,
            tasks=[task.model_dump(mode="json") for task in tasks],
            protocol=protocol.model_dump(mode="json"),
            ranking=track.ranking(protocol, bool(fields["attackers"]), tasks),
            members={task.label: list(track.members(task)) for task in tasks},
            quantities=list(dict.fromkeys(quantities)),
            notes=notes,
            **fields,
        )
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error)}") from None
    _check_file_names(grid, where)
    return grid


def _check_file_names(grid: Grid, where: str) -> None:
    """Raise `UsageError` if the pictures of two cells would have one name, or one that is too long. where: place to
    name in the error."""
    known: dict[str, tuple[str, ...]] = {}
    for task, defense, attacker in product(grid.members, grid.defenses, [None, *grid.attackers]):
        labels = tuple(label for label in (task, defense, attacker) if label is not None)
        stem = file_stem(grid.name, *labels)
        if len(stem.encode()) > LONGEST_STEM:
            raise UsageError(f"{where}: the labels {', '.join(labels)} are too long for the name of a file")
        other = known.setdefault(stem.casefold(), labels)
        if other != labels:
            texts = [" · ".join(cell) for cell in (other, labels)]
            raise UsageError(f"{where}: files of {texts[0]} and {texts[1]} would have one name: rename a row")
