"""A control in closed form: other weights for the same pictures."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.diffusion import DiffusionDefense, Targets, TextToImage, factors


class Gauge(DiffusionDefense):
    """Rescales pairs of factors whose product alone matters, without data or training (data-free control).

    Per head, W_q ← A W_q and W_k ← A⁻¹ W_k, W_v ← A W_v and W_out ← W_out A⁻¹; per hidden unit of GEGLU, the value half
    is multiplied by a number and the unit's output is divided by it. This is the form for Stable Diffusion's layers of
    SpecDef (Rosati et al., 2026), which inflates singular values and adds a layer that undoes it. The factors are
    powers of two, so float32 and bfloat16 weights lose no digit and the pictures stay the same; float16 overflows. An
    attack whose steps have one size for all weights is slowed down; `balanced` undoes it.
    """

    name = "gauge"
    control = True
    deterministic = True

    octaves: int = Field(13, ge=0, le=40, description="s: A is diagonal from 2^−s to 2^s in equal ratios, rounded")

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[float]:
        """Rescale the factors of the U-Net."""
        for pair in factors(model.unet):
            left, right = pair.read()
            groups, width, _ = left.shape
            octaves = torch.linspace(-self.octaves, self.octaves, width * groups, dtype=left.dtype, device=left.device)
            scale = octaves.round().exp2().reshape(width, groups).T[..., None]  # each group has all sizes
            pair.write(scale * left, right / scale)
        yield 0.0
