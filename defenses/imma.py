"""IMMA: immunization against one concept and one attacker."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field

from defenses._ascent import SMALL, AscentDefense
from harness import PluginSpec, RunError, configured
from harness.diffusion import Targets, TextToImage, WeightSet


class Imma(AscentDefense):
    """Ascent on the loss of a model that an attacker adapts at the same time (IMMA, ECCV 2024), for one concept.

    A bi-level optimisation. In the inner problem an attacker takes its own steps with its own step size, and is never
    restarted. In the outer problem the attention's weights ascend on the loss of the attacked model. As in the authors'
    code, the attacker's last step is treated as a constant, and by default no pictures are retained. The 1000 steps of
    that code alternate: 500 of the attacker, 500 of the ascent, which `steps` counts.
    """

    name = "imma"
    presets = {
        "small": {**SMALL, "preset": "small"},
        "small_styles": {**SMALL, "preset": "small", "lr": 6e-4},
    }

    lr: float = Field(1e-5, gt=0, description="AdamW's step size")
    weights: WeightSet = Field("attention", description="the weights that the ascent changes")
    prior: Literal["class", "captions", "none"] = Field("none", description="pictures to retain, as in MIMA")
    attacker: str = Field("lora", description="name of the inner attacker")
    preset: str | None = Field(None, description="preset of the inner attacker")
    settings: dict[str, Any] = Field(
        {}, description="fields of the inner attacker, e.g. another word than the real attacker's"
    )
    inner_steps: int = Field(1, ge=1, description="steps of the inner attacker for each step of the ascent")

    def uses(self) -> tuple[PluginSpec, ...]:
        """The inner attacker."""
        return (configured("attacker", self.attacker, self.settings, self.preset),)

    def class_images(self) -> int:
        """Number of class pictures that the ascent or the inner attacker reads."""
        (spec,) = self.uses()
        inner: int = spec.build().class_images(self.steps * self.inner_steps)
        return max(super().class_images(), inner)

    def harmful_losses(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Yield the loss of the attacked model, differentiable with respect to the weights that it shares with `model`.
        Raises `RunError` if there is more than one target."""
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
                    # Apply the latest change of the ascent to the attacked model too; the attacker's change stays.
                    theirs.data += ours[own].detach() - known[own]
                    known[own].copy_(ours[own].detach())
                    shared[name] = theirs.detach() + (ours[own] - ours[own].detach())
            yield attacked.denoising_loss(batch, shared)
