"""The metric plugin_name."""

from collections.abc import Iterator

from harness import Quantity, Value
from harness.deep import Course, DeepMetric, UndefendedCourse


class PluginName(DeepMetric):
    """Share of held-out rows on which the attacks on the released and on the undefended model agree (a control).

    Replace it by your metric and its source.
    """

    deterministic = True  # draws no random numbers
    measures = "attacked"
    quantities = (
        Quantity(
            name="plugin_name",
            title="plugin_name",
            description="share of held-out rows with the same predicted class as on the undefended model",
            formula="mean [ŷ = ŷ₀]",
            limits="Whether the predictions are right.",
        ),
    )

    def measure(self, model: Course, data: UndefendedCourse) -> Iterator[Value]:
        """Yield a value at each measured step."""
        same = (model.predictions == data.course.predictions).double().mean(1)
        for step, share in zip(model.steps, same, strict=True):
            yield self.value(float(share), role="harmful", step=step)
