"""The metric plugin_name."""

from collections.abc import Iterator

import torch

from harness import Quantity, Value
from harness.diffusion import DiffusionMetric, ReleasedData, TextToImage


class PluginName(DiffusionMetric):
    """Size of the released U-Net (a control).

    Replace it by your metric and its source.
    """

    deterministic = True  # draws no random numbers
    quantities = (
        Quantity(
            name="plugin_name",
            title="plugin_name",
            description="norm of all weights of the U-Net",
            formula="‖θ‖₂",
            limits="What the weights draw.",
        ),
    )

    def measure(self, model: TextToImage, data: ReleasedData) -> Iterator[Value]:
        """Yield values; leave the model as it is."""
        norms = [weight.detach().norm() for weight in model.unet.parameters()]
        yield self.value(float(torch.stack(norms).norm()))
