"""CP, the baseline of MIMA that immunizes against each concept alone and merges the models afterwards."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field

from harness.diffusion import MergingDefense, Targets, TextToImage, Weights, WeightSet, small_presets


class Compose(MergingDefense):
    """CP: each concept immunized alone, keys and values only, and the models merged at the end (MIMA, AAAI 2025).

    The merge is Custom Diffusion's composition (Kumari et al., 2023), here of immunized models. No code of it can be
    run. Where `steps` are said they are each concept's. The other way to read the paper, a merge at every step with
    keys and values alone to ascend, is `mima` with `weights: keys_values`.
    """

    name = "compose"
    presets: ClassVar = small_presets(styles=1e-3, objects=6e-4, personal=6e-4, inner_lr=1.0)

    weights: WeightSet = Field("keys_values", description="what is changed")

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The steps of one concept after the other, each from the model as it was."""
        merge = self.merge(model, targets)
        weights = model.weights("keys_values")
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        immunized = []
        for place in range(len(targets)):
            yield from super().immunize(model, targets.only(place))
            immunized.append({name: weight.detach().clone() for name, weight in weights.items()})
            self._put(weights, before)
        stacked = {name: torch.stack([of[name] for of in immunized]) for name in weights}
        self._put(weights, merge.merged(before, stacked))

    @staticmethod
    @torch.no_grad()
    def _put(weights: Weights, values: Weights) -> None:
        for name, weight in weights.items():
            weight.copy_(values[name])
