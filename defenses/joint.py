"""JT, the baseline of MIMA that trains on all concepts at once."""

from typing import ClassVar

from pydantic import Field

from harness.diffusion import Batch, UnrolledDefense, WeightSet, small_presets


class Joint(UnrolledDefense):
    """JT: ascent through one descent of the whole U-Net on the pooled concepts (a baseline of MIMA, AAAI 2025).

    IMMA (ECCV 2024) with the concepts' pictures thrown together and DreamBooth's as its inner step. No code of it can
    be run; what the paper leaves open is as in MIMA.
    """

    name = "joint"
    presets: ClassVar = small_presets(styles=6e-4, objects=1e-4, personal=1e-3, inner_lr=0.03)

    weights: WeightSet = Field("attention", description="what is changed")
    inner_weights: WeightSet = Field("unet", description="what the unrolled steps change")

    def parts(self, batches: list[Batch]) -> list[Batch]:
        """One pool."""
        return [Batch.join(batches)]
