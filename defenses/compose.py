"""CP, a baseline of MIMA: Custom Diffusion's composition of models, immunized on keys and values only."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from defenses._ascent import SMALL
from defenses._merge import Merge, assign
from defenses.joint import Joint
from defenses.mima import Mima
from harness import RunError
from harness.diffusion import Targets, TextToImage, WeightSet


class Compose(Joint):
    """CP: keys and values immunized against each concept and merged (a baseline of MIMA, AAAI 2025).

    The merge is Custom Diffusion's composition (Kumari et al., 2023). The authors released no code for CP.

    mode: every-step: each step merges the keys and values adapted to the concepts and ascends on the merged model's
    loss, with gradients through the merge: MIMA on keys and values only. This is the likelier reading of the paper, in
    which CP is IMMA with Custom Diffusion as its attacker and freezes all other weights during immunization. separate:
    the keys and values are immunized against each concept alone, by JT with that concept only, and the models are
    merged once at the end. `steps` are then shared out among the concepts, so that both modes take as many.
    """

    name = "compose"
    presets = {
        "small": {**SMALL, "inner_lr": 1.0},
        "small_styles": {**SMALL, "inner_lr": 1.0, "lr": 2e-3},
        "small_objects": {**SMALL, "inner_lr": 1.0, "lr": 2e-3},
        "small_personal": {**SMALL, "inner_lr": 1.0, "lr": 6e-3},
    }

    mode: Literal["every-step", "separate"] = Field(
        "every-step", description="when the models are merged: every-step or separate (see above)"
    )
    weights: WeightSet = Field("keys_values", description="the weights that the ascent changes")
    inner_weights: WeightSet = Field("keys_values", description="the weights that the unrolled steps change")
    ridge: float = Field(1e-4, ge=0, description="ρ, on the captions' Gram matrix, in units of its mean eigenvalue")
    captions: int = Field(200, ge=1, description="number of captions for C_reg: the first ones of the concept file")

    @property
    def needs(self) -> tuple[str, ...]:
        """What the prior needs, and captions for the merge."""
        return (*super().needs, "captions")

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield the concepts' mean loss on new batches: computed with MIMA's merged weights, or in the mode separate
        with the weights adapted to the only concept."""
        if self.mode == "separate":
            return super().harmful_losses(model, targets)
        shared = {name: getattr(self, name) for name in Joint.__pydantic_fields__}
        return Mima(**shared, ridge=self.ridge, captions=self.captions).harmful_losses(model, targets)

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Immunize against all concepts, or in the mode separate against one after the other, each time from the base
        model's weights; yields the ascended loss after every step. Raises `RunError` for fewer steps than concepts."""
        if self.mode == "every-step":
            yield from super().immunize(model, targets)
            return
        merge = Merge.layer(model, self.prompts(targets), targets.captions[: self.captions], self.ridge)
        targets.notes.update(merge.report)
        weights = model.weights("keys_values")
        base = {name: weight.detach().clone() for name, weight in weights.items()}
        immunized = []
        each, left = divmod(self.steps, len(targets))
        if not each:
            raise RunError(f"{self.steps} steps cannot be shared out among {len(targets)} concepts: set more `steps`")
        for place in range(len(targets)):
            alone = replace(self, steps=each + (place < left))
            yield from super(Compose, alone).immunize(model, targets.only(place))
            immunized.append({name: weight.detach().clone() for name, weight in weights.items()})
            assign(model, base)
        assign(model, merge.merged(base, {name: torch.stack([one[name] for one in immunized]) for name in weights}))
