"""DreamBooth: trains the whole U-Net."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from attackers._weights import WeightAttacker
from harness.diffusion import Batch, Concept, ConceptData, TextToImage


class DreamBooth(WeightAttacker):
    """DreamBooth: the whole U-Net on a few pictures and a rare word (Ruiz et al., 2023)."""

    name = "dreambooth"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"lr": 3e-4, "batch_size": 4}}

    lr: float = Field(5e-6, gt=0, description="AdamW's step size")
    batch_size: int = Field(1, ge=1, description="pictures in a step")
    token: str = Field("sks", description="rare word for a subject")
    prior: int = Field(0, ge=0, description="number of pictures of the class for prior preservation; 0: none")
    prior_weight: float = Field(1.0, ge=0, description="weight of the loss on the class's pictures")

    @property
    def needs(self) -> tuple[str, ...]:
        """The class prompt, for a prior."""
        return ("class_prompt",) if self.prior else ()

    def prompt(self, concept: Concept) -> str:
        """The concept's prompt: with the rare word and the class for a subject, else with the concept's own words."""
        return concept.prompted(f"{self.token} {concept.class_word}" if concept.kind == "subject" else None)

    def class_images(self, steps: int) -> int:
        """Number of class pictures for prior preservation: no more than `steps` steps can use."""
        return min(self.prior, steps * self.batch_size)

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """All parameters of the U-Net."""
        return list(model.unet.parameters())

    def batches(self, data: ConceptData) -> Iterator[Batch]:
        """Yield batches of the concept's pictures and, if `prior` is not 0, of as many pictures of the class."""
        prompt = self.prompt(data.concept)
        return data.batches(prompt, self.batch_size, prior=self.prior, prior_weight=self.prior_weight)
