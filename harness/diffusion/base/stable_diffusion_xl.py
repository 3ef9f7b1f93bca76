"""Stable Diffusion XL: two text encoders, an embedding of the whole prompt, and the pictures' size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from harness.diffusion.base.family import Encoder, Family, Text


class StableDiffusionXL(Family):
    """Stable Diffusion XL (Podell et al., 2024). Pictures are not cropped, so the crop's corner is (0, 0)."""

    layout = "StableDiffusionXLPipeline"
    pipeline = StableDiffusionXLPipeline
    encoders: ClassVar[Mapping[str, Encoder]] = {
        "text_encoder": Encoder("tokenizer", CLIPTextModel),
        "text_encoder_2": Encoder("tokenizer_2", CLIPTextModelWithProjection),
    }
    loading: ClassVar[Mapping[str, Any]] = {"add_watermarker": False}
    reading: ClassVar[Mapping[str, Any]] = {"output_hidden_states": True}
    inputs: ClassVar[Mapping[str, Any]] = {"addition_embed_type": "text_time"}

    def making(self, pipeline: Any) -> dict[str, Any]:
        """A copy treats the empty prompt alike, and draws no watermark."""
        zeros = pipeline.config.force_zeros_for_empty_prompt
        return {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}

    def read(self, outputs: Sequence[Any]) -> Text:
        """The last hidden states but one of both encoders, side by side, and the projection of the second one."""
        rows = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return Text(rows, outputs[-1].text_embeds)

    def conditions(self, text: Text, size: tuple[int, int]) -> dict[str, Any]:
        """The pooled embedding, and the size before the crop, the crop's corner and the size wanted."""
        assert text.pooled is not None
        ids = torch.tensor([*size, 0, 0, *size], dtype=text.pooled.dtype, device=text.pooled.device)
        return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": ids.repeat(len(text.pooled), 1)}}

    def drawing(self, pipeline: Any, text: Text, negated: Text, negative: str) -> dict[str, Any]:
        """Both kinds of embeddings; those of an empty negative prompt are zeros if the pipeline says so."""
        if not negative and pipeline.config.force_zeros_for_empty_prompt:
            negated = Text(*(torch.zeros_like(part) for part in negated if part is not None))
        pooled = {"pooled_prompt_embeds": text.pooled, "negative_pooled_prompt_embeds": negated.pooled}
        return super().drawing(pipeline, text, negated, negative) | pooled
