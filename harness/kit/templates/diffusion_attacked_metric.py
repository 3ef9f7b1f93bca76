"""The metric plugin_name."""

from collections.abc import Iterator, Mapping

import numpy as np

from harness import Quantity, Value
from harness.diffusion import AttackedMetric, AttackedPictures, Encoder


class PluginName(AttackedMetric):
    """Distance in pixels from the pictures of the attacked undefended model (a control).

    Replace it by your metric and its source.
    """

    deterministic = True  # draws no random numbers
    quantities = (
        Quantity(
            name="plugin_name",
            title="plugin_name",
            better="higher",
            description="mean distance of a pixel from that after the attack on the undefended model, from 0 to 1",
            formula="mean |x(θ) − x(θ₀)|/255 over pixels and targets",
            limits="What the pictures show.",
        ),
    )

    def measure(self, model: AttackedPictures, data: Mapping[str, Encoder]) -> Iterator[Value]:
        """Yield values: here one for each measured step."""
        pairs = [(attack.attacked.images, attack.undefended.images) for attack in model.targets]
        for place, step in enumerate(model.steps):
            distances = [np.abs(np.subtract(a[place], b[place], dtype=np.float64)).mean() for a, b in pairs]
            yield self.value(float(np.mean(distances)) / 255, role="harmful", step=step)
