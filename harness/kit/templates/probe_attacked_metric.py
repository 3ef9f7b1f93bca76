"""The metric plugin_name."""

from collections.abc import Iterator

from harness import Quantity, Value
from harness.probe import AttackData, ProbeMetric, Trajectory


class PluginName(ProbeMetric):
    """Loss after an attack over that on the undefended features (a control).

    Replace it by your metric and its source.
    """

    deterministic = True  # draws no random numbers; otherwise draw from data.generator()
    measures = "attacked"
    quantities = (
        Quantity(
            name="plugin_name",
            title="plugin_name",
            better="higher",
            scale="log",
            description="training loss of the attacked probe over that on the undefended features",
            formula="L_t(θ)/L_t(I) after t steps",
            limits="How far either loss is from the best one.",
        ),
    )

    def measure(self, model: Trajectory, data: AttackData) -> Iterator[Value]:
        """Yield values: here one for each measured step."""
        for step in model.steps:
            yield self.value(float(model.losses[step] / data.undefended.losses[step]), step=step)
