"""Plugins: frozen, keyword-only, validated dataclasses whose one method is a generator.

A plugin's fields are its hyper-parameters and its repr is the call that makes it. A defense's or attacker's generator
yields the current loss once per optimisation step; the harness pulls (see `harness.meter`).
`harness.registry` finds plugins.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass

from harness import source
from harness.importing import import_plugin
from harness.labels import Digest, Label, Text

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

KINDS = ("defense", "attacker", "metric")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
class Plugin:
    """Base of defenses, attackers and metrics; a subclass's annotated attributes become validated fields."""

    kind: ClassVar[str]
    method: ClassVar[str]
    """Name of the method that an author writes."""
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
        """Start the plugin's generator."""
        generator: Iterator[Any] = getattr(self, self.method)(model, data)
        return generator

    def uses(self) -> Sequence[PluginSpec]:
        """Other plugins that this one runs."""
        return ()

    def source(self) -> str:
        """`source_digest`, extended by the identities of the plugins that this one runs."""
        own, used = self.source_digest(), [spec.identity for spec in self.uses()]
        return hashlib.sha256(json.dumps([own, used], sort_keys=True).encode()).hexdigest() if used else own


class Defense(Plugin):
    """Immunizes a base model before its release."""

    kind: ClassVar[str] = "defense"
    method: ClassVar[str] = "immunize"
    control: ClassVar[bool] = False
    """Control row, not a proposed defense: a defense that does no better than a control has shown nothing."""

    def immunize(self, model: Any, targets: Any) -> Iterator[Any]:
        """Change `model` in place so that the harmful task in `targets` is hard to learn. Yield the loss after every
        step, once for a closed form, and return at the end."""
        raise NotImplementedError


class Attacker(Plugin):
    """Fine-tunes a released model on a task."""

    kind: ClassVar[str] = "attacker"
    method: ClassVar[str] = "adapt"

    def adapt(self, model: Any, data: Any) -> Iterator[Any]:
        """Change `model` in place. Yield the loss after every step, without end: the harness stops it."""
        raise NotImplementedError


class PluginSpec(BaseModel):
    """A plugin with its settings as plain data: hashed into keys, sent to workers, written into submissions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["defense", "attacker", "metric"]
    name: Label
    params: dict[str, Any] = Field(description="all of its fields")
    source: Digest = Field(description="of what its code does")
    call: Text = Field(description="the call that makes it, without defaults")
    deterministic: bool = Field(False, description="draws no random numbers")
    control: bool = Field(False, description="a control row, not a proposed defense")
    measures: Literal["released", "attacked"] | None = Field(None, description="of a metric: on which model")
    package: Text | None = Field(None, description="installed package with its version; null: a plugin file")
    module: str = Field("", exclude=True, description="empty: not available here")
    attribute: str = Field("", exclude=True)
    file: str | None = Field(None, exclude=True, description="path of the plugin file")

    @property
    def identity(self) -> dict[str, Any]:
        """What enters a key: the code and the settings, not where the code lies."""
        return {"kind": self.kind, "name": self.name, "params": self.params, "source": self.source}

    def build(self) -> Any:
        """The plugin object; imports its module if needed."""
        return getattr(import_plugin(self.module, self.file), self.attribute)(**self.params)

    def __str__(self) -> str:
        return self.call
