"""CP, the baseline of MIMA that immunizes against each concept alone and merges the models afterwards."""

from collections.abc import Iterator

import torch
from pydantic import Field

from defenses._ascent import SMALL
from defenses._merge import Merge, assign
from defenses.joint import Joint
from harness.diffusion import Targets, TextToImage, WeightSet


class Compose(Joint):
    """CP: each concept immunized alone, keys and values only, and the models merged at the end (MIMA, AAAI 2025).

    Immunizing against one concept alone is JT with that concept. The merge is Custom Diffusion's composition (Kumari
    et al., 2023), here of immunized models. No code of it was released. `steps` are those of each concept. The other
    way to read the paper, a merge at every step with an ascent on keys and values alone, is `mima` with
    `weights: keys_values`.
    """

    name = "compose"
    presets = {
        "small": {**SMALL, "inner_lr": 1.0},
        "small_styles": {**SMALL, "inner_lr": 1.0, "lr": 1e-3},
        "small_objects": {**SMALL, "inner_lr": 1.0, "lr": 6e-4},
        "small_personal": {**SMALL, "inner_lr": 1.0, "lr": 6e-4},
    }

    weights: WeightSet = Field("keys_values", description="the weights that the ascent changes")
    inner_weights: WeightSet = Field("keys_values", description="the weights that the unrolled steps change")
    ridge: float = Field(1e-4, ge=0, description="ρ, on the captions' Gram matrix, in units of its mean eigenvalue")
    captions: int = Field(200, ge=1, description="captions for C_reg, the first of the concept file's")

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The steps of one concept after the other, each concept from the base model's weights; then the merge."""
        merge = Merge.layer(model, self.prompts(targets), targets.captions[: self.captions], self.ridge)
        targets.notes.update(merge.report)
        weights = model.weights("keys_values")
        base = {name: weight.detach().clone() for name, weight in weights.items()}
        immunized = []
        for place in range(len(targets)):
            yield from super().immunize(model, targets.only(place))
            immunized.append({name: weight.detach().clone() for name, weight in weights.items()})
            assign(model, base)
        assign(model, merge.merged(base, {name: torch.stack([one[name] for one in immunized]) for name in weights}))
