"""The pictures that an attacker has: the common part of all attackers on text-to-image models."""

from dataclasses import replace

import numpy as np
from pydantic import Field

from harness import RunError
from harness.diffusion import ConceptData, DiffusionAttacker


class PictureAttacker(DiffusionAttacker):
    """An attacker that may have few or noisy pictures of the concept."""

    pictures: int = Field(0, ge=0, description="number of pictures of the concept, the first ones; 0: all")
    noised: float = Field(
        0.0,
        ge=0,
        description="standard deviation of Gaussian noise on these pictures, as a share of the range of a pixel",
    )

    def given(self, data: ConceptData) -> ConceptData:
        """`data` with the pictures that the attacker has. Their noise depends on the attack's seed. Raises `RunError`
        if the protocol gives fewer pictures."""
        if self.pictures > len(data.images):
            raise RunError(
                f"the attacker asks for {self.pictures} pictures of {data.concept.name}, and there are "
                f"{len(data.images)}: lower its field pictures, raise protocol.training_images, or add pictures to the "
                "concept's folder"
            )
        images = data.images[: self.pictures or None]
        if self.noised:
            noise = np.random.default_rng(data.seed).normal(0, 255 * self.noised, images.shape)
            images = (images + noise).round().clip(0, 255).astype(np.uint8)
        return replace(data, images=images)
