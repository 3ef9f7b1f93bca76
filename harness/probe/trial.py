"""Tiny tasks for the conformance kit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar

import torch

from harness.kit.trial import Trial
from harness.plugin import Plugin
from harness.probe.data import ProbeTargets, Split
from harness.probe.model import Extractor, LinearProbe

ROWS, DIM = 128, 32


def _targets(seed: int) -> ProbeTargets:
    """Rows of features of unlike size, and what a linear map makes of them with some noise."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(0, -1.5, DIM, dtype=torch.float64)
    splits = []
    for _ in fields(ProbeTargets)[:2]:
        x = torch.randn(ROWS, DIM, dtype=torch.float64, generator=draw) * sizes
        y = x @ torch.randn(DIM, dtype=torch.float64, generator=draw)
        y += 0.1 * torch.randn(ROWS, dtype=torch.float64, generator=draw)
        splits.append(Split(x, (y - y.mean()) / y.std()))
    return ProbeTargets(*splits, seed=seed)


class ReleaseTrial(Trial):
    """An extractor to immunize, or to look at."""

    steps: ClassVar[int] = 2000

    def __init__(self, seed: int) -> None:
        self.targets, self.model = _targets(seed), Extractor(DIM)

    def begin(self, plugin: Plugin) -> Iterator[Any]:
        """Immunize it or look at it."""
        return plugin.generator(self.model, self.targets)

    def modules(self) -> Mapping[str, torch.nn.Module]:
        """The extractor."""
        return {"extractor": self.model}

    def given(self) -> Mapping[str, torch.Tensor]:
        """Both tasks' rows."""
        return {f"{side}.{part}": getattr(getattr(self.targets, side), part)
                for side in ("benign", "harmful") for part in ("x", "y")}  # fmt: skip

    def loss(self, plugin: Any) -> float:
        """That of the best probe on the harmful rows."""
        with torch.no_grad():
            x, y = self.model(self.targets.harmful.x), self.targets.harmful.y
            return float((x @ torch.linalg.lstsq(x, y[:, None]).solution[:, 0] - y).square().mean())


class AttackTrial(Trial):
    """A probe to train on features of the undefended model."""

    steps: ClassVar[int] = 100
    broken: ClassVar[float] = 0.5

    def __init__(self, seed: int) -> None:
        self.data, self.probe = _targets(seed).harmful, LinearProbe(DIM)

    def begin(self, plugin: Plugin) -> Iterator[Any]:
        """Train it."""
        return plugin.generator(self.probe, self.data)

    def modules(self) -> Mapping[str, torch.nn.Module]:
        """The probe."""
        return {"probe": self.probe}

    def given(self) -> Mapping[str, torch.Tensor]:
        """Features and targets."""
        return {"x": self.data.x, "y": self.data.y}

    def loss(self, plugin: Any) -> float:
        """The probe's."""
        return float(self.probe.loss(self.data).detach())
