"""Stages: the jobs of a run as typed frozen dataclasses.

A stage is the configuration, the content key and the code of one job. Its fields are the job's inputs. A field that
holds a stage, or a tuple or mapping of stages, is a parent, whose artifact the job reads. The key hashes the version of
the class and all fields, so a job that two cells share runs once. Labels, paths, workers and devices enter no key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from pydantic import BaseModel

from harness import meter, source
from harness.errors import RunError
from harness.importing import import_plugin
from harness.metric import write_values
from harness.plugin import PluginSpec
from harness.versions import Version, version

T = TypeVar("T")


class Content(NamedTuple):
    """How the content of a path is identified.

    files(path): the files that make up the content. digest(path): SHA-256 of the content, in hexadecimal; None if it
    cannot be read. Both are functions of a module, so that jobs can be pickled.
    """

    files: Callable[[str], Iterable[Path]]
    digest: Callable[[str], str | None]

    def versions(self, path: str) -> tuple[Version, ...]:
        """The present versions of the files."""
        return tuple(version(file) for file in self.files(path) if file.is_file())


@dataclasses.dataclass(frozen=True)
class Located:
    """A file or folder on this machine.

    path: its path; not part of any key. digest: SHA-256 of its content, in hexadecimal, which enters keys; None if the
    content cannot be read. content: how the digest is computed; None: it is never checked. versions: of the files when
    the digest was computed; files that still have them are not hashed again.
    """

    path: str
    digest: str | None
    content: Content | None = dataclasses.field(default=None, compare=False)
    versions: tuple[Version, ...] = dataclasses.field(default=(), compare=False)

    @classmethod
    def of(cls, path: str, content: Content) -> Located:
        """The file or folder `path` with the present digest of its content."""
        versions = content.versions(path)
        return cls(path, _digest(path, content, versions), content, versions)

    def check(self) -> tuple[Version, ...]:
        """The present versions of the files; raises `RunError` if the content is not that of the digest."""
        if self.content is None:
            return ()
        versions = self.content.versions(self.path)
        if versions != self.versions and (now := _digest(self.path, self.content, versions)) != self.digest:
            raise RunError(
                f"{self.path} has other content here ({str(now)[-8:]}) than in the plan ({str(self.digest)[-8:]}): do "
                "not change it during a run, use the same files on all workers, and run the same command again"
            )
        return versions


@lru_cache(256)
def _digest(path: str, content: Content, versions: tuple[Version, ...]) -> str | None:
    return content.digest(path)


class Folders(Mapping["Stage", Path]):
    """The artifact folders of a job's parents: `folders[self.model]`. folders: the paths by key of the parent."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def __getitem__(self, stage: Stage) -> Path:
        return self._folders[stage.key]

    def __iter__(self) -> Iterator[Stage]:
        raise TypeError("folders cannot be iterated; write folders[stage]")

    def __len__(self) -> int:
        return len(self._folders)


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False)
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One job. Subclass with annotated fields, a `version` and `run`:

        class Attack(Stage, track="probe", version=1):
            task: Task
            steps: int
            model: Immunize  # a parent

            def run(self, folders: Folders, out: Path) -> None: ...

    Fields hold JSON values, pydantic models, plugins, `Located` files and stages. Increase the version whenever `run`
    computes something else: the key covers the version, but not the code of the harness. The key of a stage outside the
    harness also covers its code, by the rule for plugins (see `harness.source`).
    """

    track: ClassVar[str]
    version: ClassVar[int]
    name: ClassVar[str]
    """The class's name in snake case."""
    spec: ClassVar[ModuleSpec | None]
    """Import spec of the module of a stage outside the harness."""
    code: ClassVar[str | None]
    """Digest of the code of a stage outside the harness; None for a stage of the harness, which has a version only."""
    transient: ClassVar[bool] = False
    """The artifact is large and only other jobs read it, so a run may delete it when they are done."""
    gpu: ClassVar[bool] = False
    """A GPU makes the job faster."""
    apart: ClassVar[bool] = False
    """`run` calls the plugin in another process (see `harness.execution.released`)."""

    plugin: PluginSpec | None = None
    """The defense, attacker or metric that the job runs."""
    seed: int | None = None
    """Seed of all random draws of the job; None if it draws nothing."""

    def __init_subclass__(cls, track: str | None = None, version: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if track is not None:
            cls.track = track
        cls.version = version
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        is_own = cls.__module__.partition(".")[0] == "harness"
        cls.spec = None if is_own else sys.modules[cls.__module__].__spec__
        cls.code = None if cls.spec is None else source.digest(cls.spec)
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)

    def run(self, folders: Folders, out: Path) -> None:
        """Compute the artifact. The result must depend on the fields only.

        folders: artifact folders of the parents. out: empty folder to write the artifact into.
        """
        raise NotImplementedError

    @property
    def work(self) -> float:
        """Amount of work, in a unit of the stage's own; time estimates are proportional to it."""
        return 1.0

    @cached_property
    def network(self) -> str:
        """What decides the cost of a unit of `work`, as the digest of the base network: the parents' one, or ''."""
        return next((parent.network for parent in self.parents if parent.network), "")

    @cached_property
    def key(self) -> str:
        """SHA-256 of the job's identity, in hexadecimal."""
        return digest(self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything the artifact depends on, as JSON values; parents by their keys."""
        fields = {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"track": self.track, "stage": self.name, "version": self.version, "code": self.code, **fields}

    @cached_property
    def parents(self) -> tuple[Stage, ...]:
        """The stages in the fields, each once."""
        found = (stage for field in dataclasses.fields(self) for stage in _found(getattr(self, field.name), Stage))
        return tuple({stage.key: stage for stage in found}.values())

    @property
    def files(self) -> tuple[Located, ...]:
        """The files in the fields."""
        return tuple(file for field in dataclasses.fields(self) for file in _found(getattr(self, field.name), Located))

    @cached_property
    def random(self) -> bool:
        """Whether the artifact depends on random draws, its own or an ancestor's."""
        return self.seed is not None or any(parent.random for parent in self.parents)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Description of the job for the artifact's manifest: the identity, names, work, network and whether it is
        transient."""
        plugin = None if self.plugin is None else self.plugin.name
        call = None if self.plugin is None else digest(self.plugin.identity)[:16]
        identity = {**self.identity, "plugin": plugin, "call": call}
        return {**identity, "work": self.work, "network": self.network, "transient": self.transient}

    def ancestry(self) -> Iterable[Stage]:
        """The ancestors and the stage itself, each once, parents first."""
        return unique([self]).values()

    def add_ancestry(self, found: dict[str, Stage]) -> None:
        """Add the ancestors and the stage itself to `found` by key, parents first; those of a stage in it are too."""
        if self.key not in found:
            for parent in self.parents:
                parent.add_ancestry(found)
            found[self.key] = self

    def pull(
        self, generator: Any, out: Path, steps: int | None = None, on_step: Any = None, record_at: Collection[int] = ()
    ) -> meter.Cost:
        """Run the plugin's `generator` and save its run cost in the artifact folder `out`.

        steps: number of steps; None: run to the end. on_step(t): called after step t = 1, 2, … record_at: steps after
        which the cost so far is recorded, which boards need for an attack: the measured steps. Returns the run cost.
        Raises `PluginError` if the plugin breaks its contract (see `harness.meter.pull`).
        """
        assert self.plugin is not None
        cost = meter.pull(generator, f"{self.plugin.kind} {self.plugin.name}", steps, on_step, record_at)
        cost.save(out)
        return cost

    def measure(self, model: Any, data: Any, out: Path) -> None:
        """Run the metric that is the stage's plugin and write its values into the artifact folder `out`.

        model, data: arguments of `Metric.measure`. Raises `PluginError` for an invalid value (see `write_values`).
        """
        assert self.plugin is not None
        metric = self.plugin.build()
        write_values(metric.measure(model, data), out, metric.quantities)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by module, file and fields, so that a worker finds the classes of plugin files."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _restore, (_Module(type(self).__module__), type(self).__qualname__, fields)


class _Module:
    """A module that unpickling imports, from its plugin file if it has one. The pickle holds it before the fields, so
    that their classes are found."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        is_file = self._name.startswith("immunebench_plugin_")
        return import_plugin, (self._name, sys.modules[self._name].__file__ if is_file else None)


def _restore(module: ModuleType, name: str, fields: Mapping[str, Any]) -> Stage:
    stage: Stage = getattr(module, name)(**fields)
    return stage


def _found(value: Any, kind: type[T]) -> Iterator[T]:
    """The objects of a class in a field's value: the value, or the items of a tuple or mapping."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _found(item, kind)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _found(item, kind)


def plain(value: Any) -> Any:
    """The field value `value` as JSON for a key; raises `TypeError` for a type that has no JSON form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Stage):
        return {"stage": value.key}
    if isinstance(value, PluginSpec):
        return value.identity
    if isinstance(value, Located):
        return value.digest
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"a stage's field cannot hold {type(value).__name__}: {value!r:.80}")


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces, no NaN), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seed_of(*parts: Any) -> int:
    """A seed (63 bits) for random draws, hashed from `parts`: JSON values that name all that the draws depend on."""
    return int(digest(list(parts))[:16], 16) >> 1


def unique(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stages in `stages` and all their ancestors by key, parents first."""
    found: dict[str, Stage] = {}
    for last in stages:
        last.add_ancestry(found)
    return found
