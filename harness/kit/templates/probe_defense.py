"""The defense plugin_name."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.probe import Extractor, ProbeDefense, ProbeTargets


class PluginName(ProbeDefense):
    """Shrinks the inputs along the harmful task's own direction (a control).

    Replace it by your method and its source.
    """

    deterministic = True  # draws no random numbers; otherwise draw from targets.generator()

    share: float = Field(0.01, gt=0, le=1, description="factor on the inputs along that direction")

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Change the model in place; yield the loss at every step, or once for a closed form."""
        direction = targets.harmful.x.T @ targets.harmful.y
        direction /= direction.norm()
        with torch.no_grad():
            model.weight -= (1 - self.share) * torch.outer(model.weight @ direction, direction)
        yield 0.0
