"""Reads suites: makes a suite to run from a suite file and the part of it that was selected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from harness import checkpoints, published, tuned_file
from harness.ensemble import Ensemble, written_out
from harness.errors import UsageError, describe, nearest
from harness.fields import parse
from harness.files import user_path
from harness.plugin import KINDS, PluginSpec
from harness.ranking import ALL_ATTACKERS, OTHER_ATTACKERS, ThreatModel, covering
from harness.registry import Registry, installed
from harness.selection import Selection
from harness.suite import Grid, Suite, other_seeds, rows_left_out
from harness.suite_file import GridFile, Row, SuiteFile, counted, find, on_base, read
from harness.suite_grid import describe_grid
from harness.track import Track


def load(suite: str | Path, selection: Selection | None = None, tuning: bool = False) -> Suite:
    """Read a suite by name or file and select a part of it.

    suite: name of a suite or path of a YAML file. selection: part of the suite to run, with changes; None: the whole
    suite. tuning: instead of the reported tasks and seeds those of each grid's `tuning`, without grids that have none.
    A suite on another base model is called `name@base`. Raises `UsageError` for an unknown or invalid suite, row,
    setting or file.
    """
    path, selection = find(suite), selection or Selection()
    file, ensembles = written_out(read(path), path)
    changes = selection.changes
    fields = changes.pop(("task", ""), {})
    if selection.base is not None:
        file, folder = on_base(file, selection.base)
        fields = {**folder, **fields}
    for name in selection.grids:
        names = [grid.name for grid in file.grids]
        if name not in names:
            raise UsageError(f"suite '{file.name}' has no grid '{name}'; {nearest(name, names)}")
    files = tuple(
        file.resolve()
        for file in [*(user_path(plugin, path.parent) for plugin in file.plugins), *map(user_path, selection.plugins)]
    )
    if tuning:
        file = _for_tuning(file)
    reader = _Reader(file, path, ensembles, selection, changes, fields, installed().with_files(files))
    grids = [grid for grid in map(reader.grid, file.grids) if grid is not None]
    reader.check_all_used()
    if not grids:
        raise UsageError(f"nothing is left to run of suite '{file.name}': every grid is empty after this choice")
    values = user_path(file.published, path.parent) if file.published else None
    if values:
        published.read(values)
    return Suite(
        name=file.name,
        version=file.version,
        title=file.title,
        description=file.description,
        grids=grids,
        tuning=file.tuning,
        published=values,
        plugins=files,
        folder=path.parent,
    )


def _for_tuning(file: SuiteFile) -> SuiteFile:
    """The suite file with the tuning tasks and seeds of its grids in place of the reported ones."""
    grids = [
        grid.model_copy(update={"tasks": grid.tuning.tasks, "seeds": grid.tuning.seeds, "tuning": None})
        for grid in file.grids
        if grid.tuning is not None
    ]
    if not grids:
        raise UsageError(f"suite '{file.name}' has no grid with `tuning` tasks and seeds on which to search settings")
    content, changed = file._content, file.model_copy(update={"grids": grids})
    changed._content = content
    return changed


class _Reader:
    """Makes the grids to run from those of a suite file and a selection. ensembles: by grid, those whose rows are
    written out in it. changes: settings of rows, as in `Selection.changes`. fields: settings of all tasks."""

    def __init__(
        self,
        file: SuiteFile,
        path: Path,
        ensembles: Mapping[str, Ensemble],
        selection: Selection,
        changes: Mapping[tuple[str, str], Mapping[str, str]],
        fields: Mapping[str, str],
        registry: Registry,
    ) -> None:
        self._file, self._path, self._selection, self._registry = file, path, selection, registry
        self._ensembles = ensembles
        self._fields = fields
        self._changes = changes
        self._folders = selection.folders
        self._tasks: dict[str, None] = {}
        self._labels = {kind: {label for grid in file.grids for label in getattr(grid, f"{kind}s")} for kind in KINDS}
        added = {user_path(plugin).resolve() for plugin in selection.plugins}
        self._added = {
            kind: [entry.name for entry in registry.all(kind) if entry.file and Path(entry.file) in added]
            for kind in KINDS
        }
        self._used: set[tuple[str, str]] = set()

    def grid(self, file: GridFile) -> Grid | None:
        """The grid to run, from the grid `file` of the suite file; None if the selection leaves no row of it."""
        if self._selection.grids and file.name not in self._selection.grids:
            return None
        track = self._registry.track(file.track, self._where(file, "track"))
        sweeps: dict[str, list[str]] = {}
        rows = {kind: self._rows(kind, file, track, sweeps) for kind in KINDS}
        if not rows["defense"] or (file.attackers and not rows["attacker"]):
            return None
        where = self._where(file, "protocol")
        protocol = parsed(track.protocol_model, file.protocol, where, self._path.parent)
        known = track.task_model.model_fields
        changed = {
            field: parse(text, known[field], f"--set tasks.{field}") if field in known else text
            for field, text in self._fields.items()
        }
        tasks = []
        for place, task in enumerate(file.tasks):
            tasks += single_tasks(track, {**task, **changed}, self._where(file, "tasks", place), self._path.parent)
        self._tasks |= {task.label: None for task in tasks}
        chosen = [task for task in tasks if task.label in (self._selection.tasks or self._tasks)]
        left_out, tasks = rows_left_out(len(chosen), len(tasks), "task"), chosen
        if not tasks:
            return None
        self._check_tuning(file, track, tasks)
        number = self._selection.seeds
        seeds = list(dict.fromkeys(counted(number) if number else file.seeds or self._file.seeds))
        tuned = {
            label: self._tuned(file, label, rows["defense"], sweeps, protocol.reference) for label in rows["attacker"]
        }
        reference = self._registry.get("defense", protocol.reference, where).spec({}, where)
        try:
            grid = describe_grid(
                self._registry,
                track,
                tasks,
                protocol,
                name=file.name,
                defenses=rows["defense"],
                attackers=rows["attacker"],
                metrics=rows["metric"],
                seeds=seeds,
                reference=reference,
                threat_models=self._threat_models(file, track, protocol, rows["attacker"]),
                sweeps=sweeps,
                ensemble=self._ensembles.get(file.name),
                tuned={label: specs for label, specs in tuned.items() if specs},
                changed=[*self._changed(file, rows, sweeps, seeds), *filter(None, [left_out])],
            )
        except UsageError as error:
            raise UsageError(f"{self._path.name}, {error}") from None
        return grid.model_copy(update={"notes": [*grid.notes, *self._shared_checkpoints(tasks)]})

    def _shared_checkpoints(self, tasks: Sequence[Any]) -> Iterator[str]:
        """A line for each checkpoint that is one model for several tasks."""
        for name, folder in self._folders.items():
            shared = sum(checkpoints.checkpoint_folder(folder, task.label) == folder for task in tasks)
            if shared > 1:
                yield f"the checkpoint {name} is one model for {shared} tasks; --task selects the one it is made for"

    def _where(self, file: GridFile, *path: str | int) -> str:
        """The place of a part of the grid `file`, for messages."""
        line = self._file.line("grids", self._file.grids.index(file), *path)
        ensemble = self._ensembles.get(file.name)
        of_ensemble = ensemble is not None and path[:1] == ("attackers",) and path[1] in ensemble.attackers
        return f"{self._path.name}{line}, grid '{file.name}'" + f", ensemble {ensemble}" * of_ensemble

    def _rows(self, kind: str, file: GridFile, track: Track, sweeps: dict[str, list[str]]) -> dict[str, PluginSpec]:
        """The rows of a kind by label. Those of each swept row are added to `sweeps`."""
        rows: dict[str, PluginSpec] = {}
        for label, row in self._chosen(kind, file, track).items():
            self._used.add((kind, label))
            where = self._where(file, f"{kind}s", label)
            entry = self._registry.get(kind, row.plugin or label, where)
            params = row.params
            known = entry.load().__pydantic_fields__
            for field, text in self._changes.get((kind, label), {}).items():
                setting = f"--set {kind}s.{label}.{field}"
                if field in row.sweep:
                    raise UsageError(f"{setting}: the suite sweeps this field; set another one")
                if row.tuned is not None:
                    raise UsageError(f"{setting}: the settings of this row are tuned; add a row by --attacker instead")
                params[field] = parse(text, known[field], setting) if field in known else text
            if row.sweep and kind != "defense":
                raise UsageError(f"{where}: only a defense can have a sweep")
            settings = {label: params}
            for field, values in row.sweep.items():
                settings = {f"{label}@{field}={_text(value)}": {**params, field: value} for value in values}
                if len(settings) < len(values):
                    raise UsageError(f"{where}: the sweep has a value of {field} twice")
                sweeps[label] = list(settings)
            for own, given in settings.items():
                rows[own] = entry.spec(given, f"{where}, {kind} '{own}'", row.preset)
            if kind == "defense":
                self._add_weights(label, rows, where)
            if entry.load().track not in (track.name, "any"):
                raise UsageError(
                    f"{where}: {kind} '{entry.name}' is of track '{entry.load().track}', the grid of '{track.name}'"
                )
        return rows

    def _add_weights(self, label: str, rows: dict[str, PluginSpec], where: str) -> None:
        """Give the row `label` of `rows` the weights of the checkpoint of this name. Raises `UsageError` if the row is
        a checkpoint without a folder, or no checkpoint with one, or if the folder has no weights, or others than the
        row."""
        folder, spec = self._folders.get(label), rows.get(label)
        is_checkpoint = spec is not None and spec.name == checkpoints.PLUGIN
        if folder is None and is_checkpoint:
            raise UsageError(f"{where}: give the folder with the weights of '{label}': --checkpoint {label}=DIR")
        if folder is None:
            return
        if spec is None or not is_checkpoint:
            raise UsageError(f"--checkpoint {label}: the suite has a row '{label}'; choose another name: NAME=DIR")
        given = checkpoints.locate(folder).digest
        params = {"digest": spec.params["digest"] or given}
        entry = self._registry.get("defense", checkpoints.PLUGIN, where)
        rows[label] = entry.spec(params, where).model_copy(update={"folder": str(folder)})
        checkpoints.weights_of(rows[label])

    def _tuned(
        self,
        file: GridFile,
        label: str,
        defenses: Mapping[str, PluginSpec],
        sweeps: Mapping[str, Sequence[str]],
        reference: str,
    ) -> dict[str, PluginSpec]:
        """The attacker row `label` with the settings that were searched for each defense, for a checkpoint those for
        the plugin `reference`; empty if it is not tuned."""
        row = file.attackers.get(label)
        if row is None or row.tuned is None:
            return {}
        where = self._where(file, "attackers", label)
        entry = self._registry.get("attacker", row.plugin or label, where)
        searched = tuned_file.read(user_path(row.tuned, self._path.parent)).attackers
        source = label if label in searched else row.plugin or label
        if source not in searched:
            raise UsageError(f"{where}: {row.tuned} has no attacker '{source}'; {nearest(source, list(searched))}")
        family = {own: sweep for sweep, labels in sweeps.items() for own in labels}
        specs = {}
        for defense, spec in defenses.items():
            own = reference if spec.name == checkpoints.PLUGIN else family.get(defense, defense)
            searched_for = row.tuned_on or own
            if searched_for not in searched[source]:
                hint = nearest(searched_for, list(searched[source]))
                raise UsageError(f"{where}: {row.tuned} has no settings of '{source}' against '{searched_for}'; {hint}")
            settings = {**row.params, **searched[source][searched_for]}
            specs[defense] = entry.spec(settings, f"{where}, attacker '{label}'", row.preset)
        return specs

    def _check_tuning(self, file: GridFile, track: Track, tasks: Sequence[Any]) -> None:
        """Raise `UsageError` if a task is reported under a seed on which settings are searched."""
        if file.tuning is None:
            return
        blocks = [
            single_tasks(track, block, self._where(file, "tuning"), self._path.parent) for block in file.tuning.tasks
        ]
        searched = {task.label for block in blocks for task in block}
        seeds = set(file.tuning.seeds) & set(file.seeds or self._file.seeds)
        for task in tasks:
            if task.label in searched and seeds:
                raise UsageError(
                    f"{self._where(file, 'tuning')}: task '{task.label}' is reported with seed {min(seeds)}: search "
                    "settings on other tasks or seeds"
                )

    def _threat_models(
        self, file: GridFile, track: Track, protocol: Any, attackers: Mapping[str, PluginSpec]
    ) -> dict[str, ThreatModel]:
        """The threat models with the attackers that are left. Attackers that are in none are one of their own."""
        outcomes = track.outcomes(protocol)
        models: dict[str, ThreatModel] = {}
        for name, model in file.threat_models.items():
            where = self._where(file, "threat_models", name)
            if name in (ALL_ATTACKERS, OTHER_ATTACKERS):
                raise UsageError(f"{where}: no threat model can have the name '{name}'; choose another")
            for label in model.attackers:
                if label not in file.attackers:
                    hint = nearest(label, list(file.attackers))
                    raise UsageError(f"{where}: the grid has no attacker '{label}'; {hint}")
            if model.outcome is not None and model.outcome not in outcomes:
                hint = nearest(str(model.outcome), list(outcomes))
                raise UsageError(f"{where}: track '{track.name}' has no outcome '{model.outcome}'; {hint}")
            outcome = None if model.outcome is None else outcomes[model.outcome]
            fields = {**dict(model), "outcome": outcome}
            models[name] = ThreatModel(**fields)
        return covering(models, attackers)

    def _chosen(self, kind: str, file: GridFile, track: Track) -> dict[str, Row]:
        """The rows to run: the selected ones or, without a selection, the grid's and those of added plugin files. A
        selected plugin that no grid of the suite has as a row becomes a row with default settings."""
        given: dict[str, Row] = getattr(file, f"{kind}s")
        if kind == "attacker" and not given:
            return {}  # a grid without attackers measures the released models
        if kind == "metric":
            known = {row.plugin or label for label, row in given.items()}
            given = {**{name: Row() for name in track.metrics if name not in known}, **given}
        elsewhere = self._labels[kind]
        further = {e.name for e in self._registry.all(kind) if e.about["track"] in (track.name, "any")} - elsewhere
        labels = self._selection.rows(kind) or [*given, *(name for name in self._added[kind] if name not in given)]
        rows = {label: given.get(label, Row()) for label in labels if label in given or label in further}
        if kind == "defense":
            rows |= {name: given.get(name, Row(plugin=checkpoints.PLUGIN)) for name in self._folders}
        return rows

    def _changed(
        self,
        file: GridFile,
        rows: Mapping[str, Mapping[str, PluginSpec]],
        sweeps: Mapping[str, Sequence[str]],
        seeds: Sequence[int],
    ) -> Iterator[str]:
        swept = {label: sweep for sweep, labels in sweeps.items() for label in labels}
        labels = {kind: list(dict.fromkeys(swept.get(label, label) for label in rows[kind])) for kind in rows}
        for field, value in self._fields.items():
            yield f"tasks.{field}={Path(value).name if field == 'base' else value}"
        for (kind, label), fields in self._changes.items():
            if label in labels[kind]:
                yield from (f"{kind}s.{label}.{field}={value}" for field, value in fields.items())
        for kind in ("defense", "attacker"):
            given = getattr(file, f"{kind}s")
            yield from (f"{kind}s.{label}. added" for label in labels[kind] if label not in given)
            if change := rows_left_out(sum(label in labels[kind] for label in given), len(given), kind):
                yield change
        if change := other_seeds(seeds, file.seeds or self._file.seeds):
            yield change

    def check_all_used(self) -> None:
        """Raise `UsageError` if a selected task, a selected row or a changed row is in no grid."""
        for task in self._selection.tasks:
            if task not in self._tasks:
                raise UsageError(f"suite '{self._file.name}' runs no task '{task}'; {nearest(task, [*self._tasks])}")
        for kind in KINDS:
            plugins = {entry.name: entry.about["track"] for entry in self._registry.all(kind)}
            choices = self._labels[kind] | set(plugins)
            for label in [*self._selection.rows(kind), *(label for k, label in self._changes if k == kind)]:
                if (kind, label) not in self._used:
                    if label in self._labels[kind]:
                        hint = "the selection leaves this row out"
                    elif label not in plugins:
                        hint = f"{nearest(label, list(choices))} A plugin of your own needs --plugin FILE"
                    elif plugins[label] in (*(grid.track for grid in self._file.grids), "any"):
                        hint = "no grid to run has it as a row"
                    else:
                        hint = f"it is of track '{plugins[label]}', which no grid of the suite has"
                    raise UsageError(f"suite '{self._file.name}' runs no {kind} '{label}'; {hint}")


def _text(value: Any) -> str:
    """A swept value as a part of a label."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def parsed(model: type[BaseModel], content: Mapping[str, Any], where: str, folder: Path) -> Any:
    """The model of a part of a suite file; raises `UsageError` if it refuses the content.

    model: a track's model of a block of tasks or of the protocol. where: place to name in the error. folder: folder to
    which paths are relative.
    """
    try:
        return model.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error)}") from None


def single_tasks(track: Track, block: Mapping[str, Any], where: str, folder: Path) -> list[Any]:
    """The single tasks of a block of tasks in a suite file.

    where: place to name in the error. folder: folder to which paths in the block are relative. Raises `UsageError` if
    the track refuses the block, or if it contains no task.
    """
    # `Track.task_model` requires expand(), which its type, pydantic's BaseModel, does not have
    tasks = list(parsed(track.task_model, block, where, folder).expand())
    if not tasks:
        raise UsageError(f"{where}: it has no tasks")
    return tasks
