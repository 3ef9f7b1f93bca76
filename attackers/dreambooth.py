"""DreamBooth: trains the whole U-Net."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from attackers._weights import WeightAttacker
from harness.diffusion import Concept, TextToImage


class DreamBooth(WeightAttacker):
    """DreamBooth: the whole U-Net on a few pictures and a rare word (Ruiz et al., 2023).

    A subject goes by the rare word `token` and its class, because it has no words of its own.
    """

    name = "dreambooth"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"lr": 3e-4, "batch_size": 4}}

    lr: float = Field(
        5e-6,
        gt=0,
        description="AdamW's step size",
        json_schema_extra={"search": {"low": 1e-5, "high": 3e-3, "log": True}},
    )
    batch_size: int = Field(
        1, ge=1, description="pictures in a step", json_schema_extra={"search": {"choices": [1, 4, 8, 16]}}
    )

    def prompt(self, concept: Concept) -> str:
        """The prompt of `concept` that `wording` says; a subject's own is the one with the rare word."""
        if self.wording == "own" and concept.kind == "subject":
            return concept.prompted(f"{self.token} {concept.class_word}")
        return super().prompt(concept)

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """All parameters of the U-Net."""
        return list(model.unet.parameters())
