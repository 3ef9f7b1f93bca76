"""The metric plugin_name."""

from collections.abc import Iterator

from harness import Quantity, Value
from harness.probe import Extractor, ProbeMetric, ReleasedData


class PluginName(ProbeMetric):
    """Size of the released extractor (a control).

    Replace it by your metric and its source.
    """

    deterministic = True  # draws no random numbers; otherwise draw from data.generator()
    quantities = (
        Quantity(
            name="plugin_name",
            title="plugin_name",
            description="norm of the extractor's weights over the identity's",
            formula="‖θ‖/‖I‖, Frobenius norms",
            limits="What the weights do to a task.",
        ),
    )

    def measure(self, model: Extractor, data: ReleasedData) -> Iterator[Value]:
        """Yield values; leave the model as it is."""
        yield self.value(float(model.weight.detach().norm()) / len(model.weight) ** 0.5)
