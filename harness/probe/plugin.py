"""The bases of this track's plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from harness.plugin import Attacker, Defense, Measure
from harness.probe.data import ProbeTargets, Split
from harness.probe.model import Extractor, LinearProbe


class ProbeDefense(Defense):
    """Immunizes a feature extractor."""

    track: ClassVar[str] = "probe"

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[Any]:
        """Change the extractor in place, given the training rows of the benign and the harmful task."""
        raise NotImplementedError


class ProbeAttacker(Attacker):
    """Trains a linear probe on the frozen features of a released extractor."""

    track: ClassVar[str] = "probe"

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[Any]:
        """Change the probe's weight in place; `data.x` are the task's features, (rows, dim) float64."""
        raise NotImplementedError


class ProbeMeasure(Measure):
    """Looks at a released extractor."""

    track: ClassVar[str] = "probe"

    def measure(self, model: Extractor, targets: ProbeTargets) -> Iterator[Mapping[str, Any]]:
        """Yield figures of the extractor, given the training rows of the benign and the harmful task."""
        raise NotImplementedError
