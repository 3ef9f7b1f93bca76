"""Plugins: frozen, keyword-only, validated dataclasses whose one method is a generator.

A plugin's fields are its hyper-parameters and its repr is the call that makes it. Its generator yields the current
loss once per optimisation step; the harness pulls (see `meter`). `catalogue` finds them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass

from harness import source
from harness.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from pydantic.fields import FieldInfo

    from harness.kit.trial import Trial
    from harness.plan import Job
    from harness.ranking import Protection
    from harness.suite import Grid

KINDS = ("defense", "attacker", "metric")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
class Plugin:
    """Base of defenses, attackers and metrics; a subclass's annotated attributes become validated fields."""

    kind: ClassVar[str]
    method: ClassVar[str]
    """The name of the one that an author writes."""
    track: ClassVar[str]
    """The track it belongs to, or `any`."""
    if TYPE_CHECKING:
        __pydantic_fields__: ClassVar[Mapping[str, FieldInfo]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings, e.g. a paper's for one data set; a suite row asks for one by `preset:`."""
    deterministic: ClassVar[bool] = False
    """Draws no random numbers, so one seed stands for all."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        validated_dataclass(frozen=True, kw_only=True, config=config)(cls)
        validate = cls.__init__

        @functools.wraps(validate)
        def keyword_only(self: Plugin, **settings: Any) -> None:  # pydantic forgets kw_only where Field() is used
            validate(self, **settings)

        # mypy allows no method to be assigned; the class is not there to be written otherwise
        cls.__init__ = keyword_only  # type: ignore[method-assign,assignment]

    @classmethod
    def source_digest(cls) -> str:
        """SHA-256 of the code of the class and of all modules that its file imports outside the standard library,
        installed packages and the harness, by the rule stated in `harness.source`. Raises `UsageError`."""
        spec = sys.modules[cls.__module__].__spec__
        assert spec is not None
        return source.digest(spec)

    def generator(self, model: Any, data: Any) -> Iterator[Any]:
        """What its one method gives."""
        made: Iterator[Any] = getattr(self, self.method)(model, data)
        return made

    def uses(self) -> Sequence[PluginSpec]:
        """Further plugins that this one runs."""
        return ()

    def source(self) -> str:
        """`source_digest`, extended by the identities of the plugins that this one runs."""
        own, used = self.source_digest(), [spec.identity for spec in self.uses()]
        return hashlib.sha256(json.dumps([own, used], sort_keys=True).encode()).hexdigest() if used else own


class Defense(Plugin):
    """Makes an immunized model of a base model before its release."""

    kind: ClassVar[str] = "defense"
    method: ClassVar[str] = "immunize"
    control: ClassVar[bool] = False
    """Is no serious defense but a yardstick: one that does as well as it has shown nothing."""

    def immunize(self, model: Any, targets: Any) -> Iterator[Any]:
        """Change `model` in place so that the harmful targets cannot be learned; yield the loss at each step
        (once, for a closed form) and return when done."""
        raise NotImplementedError


class Attacker(Plugin):
    """Adapts (fine-tunes) a released model to a task. It proposes; the harness measures and judges."""

    kind: ClassVar[str] = "attacker"
    method: ClassVar[str] = "adapt"

    def adapt(self, model: Any, data: Any) -> Iterator[Any]:
        """Change `model` in place, yielding the loss at each step, for ever: the harness decides when to stop."""
        raise NotImplementedError


class Metric(BaseModel):
    """What a figure is and is not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="as in records")
    title: str = Field(description="the papers' spelling")
    unit: str = ""
    better: Literal["higher", "lower", ""] = Field("", description="what a defender wants, if anything")
    scale: Literal["linear", "log"] = Field("linear", description="on which figures are averaged")
    description: str
    formula: str = Field("", description="how it is computed, with its source")
    policy: str = Field("", description="what the columns policy and split tell apart, if anything")
    limits: str = Field("", description="what it cannot tell")


class Measure(Plugin):
    """A further metric: looks at a released model before any attack."""

    kind: ClassVar[str] = "metric"
    method: ClassVar[str] = "measure"
    about: ClassVar[Metric]
    """What its figures are; the name is the one it is registered by."""

    def measure(self, model: Any, targets: Any) -> Iterator[Mapping[str, Any]]:
        """Yield figures (see `figure`) of `model`, which is left as it was, given what a defense is given."""
        raise NotImplementedError

    def figure(self, value: float | None, **coordinates: Any) -> dict[str, Any]:
        """One figure; None: not defined here. coordinates: concept, role, policy, split, note (see
        `harness.records.SCHEMA`)."""
        return {"metric": self.about.name, "value": value, **coordinates}


class Track(ABC):
    """A kind of model and attack. The engine knows a track only by this face."""

    kind: ClassVar[str] = "track"
    name: ClassVar[str]
    task_model: ClassVar[type[BaseModel]]
    """One entry of a grid's `tasks`; `expand()` gives the single tasks it stands for."""
    single_task_model: ClassVar[type[BaseModel]]
    """One of these; what it dumps it also reads."""
    protocol_model: ClassVar[type[BaseModel]]
    """A grid's `protocol`: budget, measuring steps, metrics' settings."""
    metrics: ClassVar[Sequence[Metric]]

    def protection(self, grid: Grid) -> Protection | None:
        """The figure by which the grid's defenses are judged; by default none is, and the board ranks nothing."""
        return None

    def members(self, task: str) -> Sequence[str]:
        """What a task, by its label, has in common with others (digits, concepts); by default nothing."""
        return (task,)

    @abstractmethod
    def measurements(self, grid: Grid) -> Iterator[tuple[dict[str, Any], Job]]:
        """The grid's cells as coordinates (`task`, `defense`, `attacker`, `seed`) and the job that measures them;
        one that comes again for the same rows counts once. A measuring job leaves `records.json` (see `records`)."""

    @abstractmethod
    def carry_out(self, job: Job, parents: Mapping[str, Path], out: Path) -> None:
        """Compute `job` from its parents' artifact folders into the folder `out`: a pure function of the job."""

    @abstractmethod
    def table(self, board: pd.DataFrame) -> pd.DataFrame:
        """The wide, readable table of a long-form board."""

    def release(self, job: Job, ensure: Callable[[Job], Path], out: Path) -> None:
        """Save the released model that a measuring job without an attacker is about into the folder `out`, as its
        ecosystem does. `ensure` computes a job's artifact and gives its folder. By default raises `UsageError`."""
        raise UsageError(f"track '{self.name}' saves no models")

    def trials(self, kind: str, seed: int) -> Sequence[Trial]:
        """Tiny tasks for the conformance kit, of which a plugin of this kind (see `KINDS`) is tried on the first
        that it does not refuse by `RunError`; by default there are none."""
        return ()

    def figures(self, records: pd.DataFrame, out: Path) -> list[Path]:
        """Draw the pictures that stand beside the table into `out`; their paths."""
        return []


@dataclasses.dataclass(frozen=True)
class PluginSpec:
    """A plugin with its settings, as plain data that can be hashed and sent to a worker."""

    kind: str
    name: str
    params: Mapping[str, Any]
    source: str
    module: str
    attribute: str
    file: str | None = None
    deterministic: bool = False
    control: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What enters a job's key: not where the source lies, but what it says."""
        return {"kind": self.kind, "name": self.name, "params": dict(self.params), "source": self.source}

    def build(self) -> Any:
        """The plugin object; importing its module where need be."""
        return getattr(import_plugin(self.module, self.file), self.attribute)(**self.params)

    def __repr__(self) -> str:
        return repr(self.build())


_imported: dict[str, tuple[int, int]] = {}
"""Time of change and size of the file of each module that a plugin's digest covers, by name, when it was imported."""
_START = time.time_ns()


def import_plugin(module: str, file: str | None) -> ModuleType:
    """A plugin's module as its source is now, imported from `file` unless it is an installed module (None).

    Modules beside `file` can be imported by relative names (`from .helpers import f`) and by absolute ones, for which
    the folder of `file` is appended to `sys.path`. Raises `UsageError` if the module cannot be imported.
    """
    try:
        if module.partition(".")[0] == "harness":  # a track
            return importlib.import_module(module)
        if file is None:
            spec = source.find_module(module)
        else:
            folder = str(Path(file).parent)
            if folder not in sys.path:
                sys.path.append(folder)
            spec = importlib.util.spec_from_file_location(module, file, submodule_search_locations=[folder])
        if spec is None:
            raise ModuleNotFoundError(f"No module named '{module}'")
        _forget_edited(source.closure(spec))
        if file is None or module in sys.modules:
            return importlib.import_module(module)
        assert spec.loader is not None
        loaded = sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[module]
            raise
        return loaded
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot import plugin {file or module}: {type(error).__name__}: {error}") from error


def _forget_edited(covered: Mapping[str, Path]) -> None:
    """If a file of `covered` (by module) was edited after its import, remove all plugin modules imported so far from
    `sys.modules`, because any of them may refer to the old code; so the next import of each runs the new code."""
    versions = {name: (path.stat().st_mtime_ns, path.stat().st_size) for name, path in covered.items()}

    def edited(name: str) -> bool:
        if name in _imported:
            return _imported[name] != versions[name]
        return versions[name][0] > _START  # imported by others, at a time unknown

    if any(name in sys.modules and edited(name) for name in covered):
        for name in {*_imported, *covered}:
            old = sys.modules.pop(name, None)
            if cached := getattr(old, "__cached__", None):  # bytecode is told from old one by the second only
                with contextlib.suppress(OSError):
                    Path(cached).unlink(missing_ok=True)
        _imported.clear()
        importlib.invalidate_caches()
    _imported.update(versions)
