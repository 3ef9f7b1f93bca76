"""A tiny task of a track, on which the conformance kit tries a plugin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def _unknown(plugin: Any) -> None:
    """The `plugin` does not say which weights it changes."""
    return None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One released model and its task.

    modules: what the model consists of, by name. start(plugin): the plugin's generator on this model. loss(plugin): the
    harmful task's loss as the harness measures it, always on the same draws. steps: steps to run an attacker for.
    broken: an attack has succeeded if it brings `loss` to this share of its start. data: tensors that a plugin may read
    and must not change. allowed(plugin): the weights (`module.name`) that the plugin says it changes; None if it does
    not say. optional: the weights that a defense may add.
    """

    modules: Mapping[str, torch.nn.Module]
    start: Callable[[Any], Iterator[Any]]
    loss: Callable[[Any], float]
    steps: int
    broken: float = 0.5
    data: Mapping[str, torch.Tensor] = field(default_factory=dict)
    allowed: Callable[[Any], Collection[str] | None] = _unknown
    optional: Collection[str] = ()
