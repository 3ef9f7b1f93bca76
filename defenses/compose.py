"""CP, a baseline of MIMA: immunize against each concept separately and merge the models afterwards."""

from collections.abc import Iterator

import torch
from pydantic import Field

from defenses._ascent import SMALL
from defenses._merge import Merge, assign
from defenses.joint import Joint
from harness.diffusion import Targets, TextToImage, WeightSet


class Compose(Joint):
    """CP: keys and values immunized against each concept separately, then merged (a baseline of MIMA, AAAI 2025).

    The immunization against one concept is JT with that concept only. The merge is Custom Diffusion's composition
    (Kumari et al., 2023), applied to immunized models. The authors released no code for CP. `steps` is the number of
    steps for each concept. The paper can also be read as a merge at every step with ascent on keys and values only;
    that is `mima` with `weights: keys_values`.
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
    captions: int = Field(200, ge=1, description="number of captions for C_reg: the first ones of the concept file")

    @property
    def needs(self) -> tuple[str, ...]:
        """What the prior needs, and captions for the merge."""
        return (*super().needs, "captions")

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Immunize against one concept after the other, each time from the base model's weights, and merge at the end;
        yields the ascended loss after every step."""
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
