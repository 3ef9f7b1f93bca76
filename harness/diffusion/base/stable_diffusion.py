"""Stable Diffusion 1 and 2, and all pipelines of their layout: one text encoder, whose last layer the U-Net reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from harness.diffusion.base.family import Encoder, Family, Text


class StableDiffusion(Family):
    """Stable Diffusion 1 and 2 (Rombach et al., 2022)."""

    layout = "StableDiffusionPipeline"
    pipeline = StableDiffusionPipeline
    encoders: ClassVar[Mapping[str, Encoder]] = {"text_encoder": Encoder("tokenizer", CLIPTextModel)}
    loading: ClassVar[Mapping[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}
    unused: ClassVar[Sequence[str]] = ("safety_checker", "feature_extractor")

    def making(self, pipeline: Any) -> dict[str, Any]:
        """A copy has no safety checker."""
        return {"requires_safety_checker": False}

    def read(self, outputs: Sequence[Any]) -> Text:
        """The last hidden state, after the final layer norm."""
        (output,) = outputs
        return Text(output.last_hidden_state)
