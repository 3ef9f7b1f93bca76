"""The metric plugin_name."""

from collections.abc import Iterator

from harness import Quantity, Value
from harness.deep import DeepMetric, Released, ReleasedFeatures


class PluginName(DeepMetric):
    """Norm of the mean feature (a control).

    Replace it by your metric and its source.
    """

    deterministic = True  # draws no random numbers
    quantities = (
        Quantity(
            name="plugin_name",
            title="plugin_name",
            description="norm of the mean feature of the training rows",
            formula="‖mean f‖₂",
            limits="Any other direction of the features.",
        ),
    )

    def measure(self, model: Released, data: ReleasedFeatures) -> Iterator[Value]:
        """Yield values; leave the model as it is."""
        for role, task in data.released.items():
            yield self.value(float(task.train.x.mean(0).norm()), role=role)
