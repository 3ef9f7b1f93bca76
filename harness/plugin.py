"""Plugins: frozen, keyword-only, validated dataclasses whose one method is a generator.

The fields of a plugin are its hyper-parameters, and its repr is the call that creates it. The generator of a defense or
attacker yields the current loss once per optimisation step; the harness iterates it (see `harness.meter`).
`harness.registry` finds plugins.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

from pydantic import ConfigDict, Field, GetCoreSchemaHandler
from pydantic.dataclasses import dataclass as validated_dataclass

from harness import source
from harness.errors import UsageError
from harness.importing import file_spec, import_plugin
from harness.labels import Digest, FrozenModel, Label, Text, strict

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import CoreSchema

KINDS = ("defense", "attacker", "metric")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
class Plugin:
    """Base of defenses, attackers and metrics; a subclass's annotated attributes become validated fields."""

    kind: ClassVar[str]
    method: ClassVar[str]
    """Name of the method that an author writes."""
    track: ClassVar[str]
    """Name of the plugin's track; `any`: it works on every track."""
    if TYPE_CHECKING:
        __pydantic_fields__: ClassVar[Mapping[str, FieldInfo]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings, for example a paper's for one data set. A row of a suite chooses one with `preset: NAME`."""
    deterministic: ClassVar[bool] = False
    """The plugin draws no random numbers, so the engine runs it once for all seeds."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)
        validated_dataclass(frozen=True, kw_only=True, config=config)(cls)
        validate = cls.__init__

        @functools.wraps(validate)
        def keyword_only(self: Plugin, **settings: Any) -> None:  # pydantic forgets kw_only where Field() is used
            validate(self, **settings)

        # mypy forbids assigning a method; this function runs after the class body, so it cannot define one instead
        cls.__init__ = keyword_only  # type: ignore[method-assign,assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = strict(handler(source), quoted=True)
        return schema

    @classmethod
    def source_digest(cls) -> str:
        """SHA-256 of the plugin's code: of its file and all modules that the file imports outside the standard library,
        installed packages and the harness (see `harness.source`). Raises `UsageError` for an import that cannot be
        found."""
        spec = sys.modules[cls.__module__].__spec__
        assert spec is not None
        return source.digest(spec)

    def generator(self, model: Any, data: Any) -> Iterator[Any]:
        """Start the plugin's generator on `model`. model, data: arguments of the method named by `method`."""
        generator: Iterator[Any] = getattr(self, self.method)(model, data)
        return generator

    def uses(self) -> Sequence[PluginSpec]:
        """The other plugins that this one runs (see `harness.configured`); none by default."""
        return ()

    def source(self) -> str:
        """`source_digest` or, for a plugin that runs others (`uses`), a SHA-256 of it and their identities."""
        own, used = self.source_digest(), [spec.identity for spec in self.uses()]
        return hashlib.sha256(json.dumps([own, used], sort_keys=True).encode()).hexdigest() if used else own


class Defense(Plugin):
    """Immunizes a base model before its release."""

    kind: ClassVar[str] = "defense"
    method: ClassVar[str] = "immunize"
    control: ClassVar[bool] = False
    """The defense is a control row, not a proposed method. A method that does no better than a control has shown
    nothing."""

    def immunize(self, model: Any, targets: Any) -> Iterator[Any]:
        """Change `model` in place so that the harmful task in `targets` is hard to learn.

        Yield the loss after every step (once for a closed form), and return at the end.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method immunize(self, model, targets)")


class Attacker(Plugin):
    """Fine-tunes a released model on a task."""

    kind: ClassVar[str] = "attacker"
    method: ClassVar[str] = "adapt"

    def adapt(self, model: Any, data: Any) -> Iterator[Any]:
        """Fine-tune `model` in place on the task in `data`. Yield the loss after every step, without end: the harness
        stops the attack."""
        raise NotImplementedError(f"{type(self).__name__} has no method adapt(self, model, data)")


class PluginSpec(FrozenModel):
    """A plugin with its settings as plain data: hashed into keys, sent to workers, written into submissions."""

    kind: Literal["defense", "attacker", "metric"] = Field(description="defense, attacker or metric")
    name: Label = Field(description="name under which the plugin is registered")
    params: dict[str, Any] = Field(description="values of all fields")
    source: Digest = Field(description="digest of the plugin's code")
    call: Text = Field(description="the call that creates the plugin, without defaults")
    deterministic: bool = Field(False, description="whether it draws no random numbers")
    control: bool = Field(False, description="whether it is a control row, not a proposed defense")
    measures: Literal["released", "attacked"] | None = Field(None, description="model that a metric measures")
    compared: bool = Field(True, description="whether a metric also reads the attacked undefended model")
    package: Text | None = Field(None, description="installed package with its version; null: a plugin file")
    module: str = Field("", exclude=True, description="full name of its module; empty: not available here")
    attribute: str = Field("", exclude=True, description="name of its class in the module")
    file: str | None = Field(None, exclude=True, description="path of the plugin file")
    folder: str | None = Field(None, exclude=True, description="folder of the weights of a checkpoint")

    @property
    def identity(self) -> dict[str, Any]:
        """The part that enters a key: the code and the settings, not the place of the code."""
        return {"kind": self.kind, "name": self.name, "params": self.params, "source": self.source}

    @property
    def shipped(self) -> bool:
        """Whether the plugin comes with the harness."""
        return self.package is not None and self.package.partition(" ")[0] == "immunebench"

    @property
    def module_spec(self) -> ModuleSpec:
        """The import spec of the plugin's module, which is not imported. Raises `UsageError` if there is none."""
        spec = source.find_module(self.module) if self.file is None else file_spec(self.module, self.file)
        if spec is None:
            raise UsageError(f"{self.kind} '{self.name}' cannot be found: there is no module {self.module}")
        return spec

    def build(self) -> Any:
        """Create the plugin object; imports its module if needed. Raises `UsageError` if the import fails."""
        return getattr(import_plugin(self.module, self.file), self.attribute)(**self.params)

    def __str__(self) -> str:
        return self.call
