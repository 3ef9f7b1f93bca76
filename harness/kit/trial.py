"""A tiny task of a track, on which the conformance kit tries a plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from harness.plugin import Plugin


class Trial(ABC):
    """One released model, and what an attacker or a defense is given beside it."""

    steps: ClassVar[int]
    """Steps by which an attacker has got somewhere."""
    broken: ClassVar[float]
    """An attack has broken the undefended model if `loss` has fallen to this share of what it was at first."""

    @abstractmethod
    def begin(self, plugin: Plugin) -> Iterator[Any]:
        """The plugin's generator on this model."""

    @abstractmethod
    def modules(self) -> Mapping[str, torch.nn.Module]:
        """What the released model is made of, by name."""

    @abstractmethod
    def loss(self, plugin: Any) -> float:
        """The harmful task's loss, by the harness's own measure and always on the same draws."""

    def given(self) -> Mapping[str, torch.Tensor]:
        """What a plugin may read and must not change."""
        return {}

    def allowed(self, plugin: Any) -> Collection[str] | None:
        """The weights (`module.name`) that a plugin says it changes; None if it does not say."""
        return None
