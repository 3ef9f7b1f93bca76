"""No defense: the released model is the base model."""

from collections.abc import Iterator
from typing import Any

from harness import Defense


class Undefended(Defense):
    """No defense: the control with which every other row is compared, on every track."""

    name = "none"
    control = True
    track = "any"
    deterministic = True

    def immunize(self, model: Any, targets: Any) -> Iterator[float]:
        """Leave `model` unchanged."""
        yield 0.0
