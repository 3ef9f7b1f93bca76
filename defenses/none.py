"""No defense: the base model is released as it is."""

from collections.abc import Iterator

from harness.probe import Extractor, ProbeDefense, ProbeTargets


class Undefended(ProbeDefense):
    """No defense at all: the row every other is compared with."""

    name = "none"
    deterministic = True

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Leave the identity as it is."""
        yield 0.0
