"""Families of base models, one file each: how a pipeline reads text, and what its U-Net is given besides latents."""

from __future__ import annotations

from collections.abc import Mapping

from harness.diffusion.base.family import Family, Text
from harness.diffusion.base.stable_diffusion import StableDiffusion
from harness.diffusion.base.stable_diffusion_xl import StableDiffusionXL

FAMILIES: Mapping[str, Family] = {family.layout: family for family in (StableDiffusion(), StableDiffusionXL())}
"""The families by the class of their pipelines, as `model_index.json` names it."""

__all__ = ["FAMILIES", "Family", "Text"]
