"""No defense: the base model is released as it is."""

from collections.abc import Iterator
from typing import Any

from harness import Defense


class Undefended(Defense):
    """No defense at all: the control that every row is compared with, on every track."""

    name = "none"
    control = True
    track = "any"
    deterministic = True

    def immunize(self, model: Any, targets: Any) -> Iterator[float]:
        """Leave the model as it is."""
        yield 0.0
