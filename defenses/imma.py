"""IMMA, which immunizes against one concept and one way of adapting to it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field

from defenses._ascent import SMALL, AscentDefense
from harness import PluginSpec, RunError, configured
from harness.diffusion import Targets, TextToImage, WeightSet


class Imma(AscentDefense):
    """Ascent on the loss of a model that an attacker is adapting all the while (IMMA, ECCV 2024), for one concept.

    Bi-level: below, a named attacker takes its own steps with its own step size and is never begun anew; above, the
    attention's weights ascend on the attacked model's loss. As in the authors' code the attacker's last step counts as
    a constant. Nothing is held on to by default, as there.
    """

    name = "imma"
    presets = {
        "small": {**SMALL, "preset": "small"},
        "small_styles": {**SMALL, "preset": "small", "lr": 6e-4},
    }

    lr: float = Field(1e-5, gt=0, description="AdamW's step size")
    steps: int = Field(1000, ge=1, description="steps of the ascent, at most")
    weights: WeightSet = Field("attention", description="what is changed")
    prior: Literal["class", "captions", "none"] = Field("none", description="what is held on to, as in MIMA")
    attacker: str = Field("lora", description="the attacker below, by name")
    preset: str | None = Field(None, description="its preset")
    settings: dict[str, Any] = Field({}, description="its fields, e.g. another word than the real attacker's")
    inner_steps: int = Field(1, ge=1, description="its steps for each of the ascent")

    def uses(self) -> tuple[PluginSpec, ...]:
        """The attacker below."""
        return (configured("attacker", self.attacker, self.settings, self.preset),)

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The attacked model's loss, by way of the weights that it shares with the model."""
        if len(targets) != 1:
            raise RunError(f"IMMA immunizes against one concept; this group has {len(targets)}")
        (subject,), (spec,) = targets, self.uses()
        attacker, attacked, ours = spec.build(), model.copy(), model.weights(self.weights)
        attack = attacker.adapt(attacked, replace(subject, model=attacked))
        known = {name: weight.detach().clone() for name, weight in ours.items()}
        fresh = replace(subject, seed=subject.seed + 1)  # other draws than the attacker's
        for batch in fresh.batches(attacker.prompt(subject.concept), self.batch_size):
            for _ in range(self.inner_steps):
                next(attack)
            shared = {}
            for name, theirs in attacked.unet.named_parameters():
                own = name.replace(".base_layer", "")  # an adapter's wrapping
                if own in ours:
                    # What the ascent has moved since moves under the attacker too; its own drift stays.
                    theirs.data += ours[own].detach() - known[own]
                    known[own].copy_(ours[own].detach())
                    shared[name] = theirs.detach() + (ours[own] - ours[own].detach())
            yield attacked.denoising_loss(batch, shared)
