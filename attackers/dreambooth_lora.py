"""DreamBooth with low-rank adapters instead of the whole U-Net."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from attackers.lora import LoRA
from harness.diffusion import Concept, Subject


class DreamBoothLoRA(LoRA):
    """DreamBooth on low-rank adapters (Ruiz et al., 2023; Hu et al., 2022), as MIMA attacks with."""

    name = "dreambooth_lora"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"lr": 2e-3}}

    lr: float = Field(5e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(1, ge=1, description="pictures a step")
    token: str = Field("sks", description="the rare word for a persona")
    prior: int = Field(0, ge=0, description="pictures of the class to hold on to; 0 is none")
    prior_weight: float = Field(1.0, ge=0, description="weight of the class's loss")

    def prompt(self, concept: Concept) -> str:
        """A persona by the rare word, any other concept by its name."""
        return concept.prompted(f"{self.token} {concept.class_word}" if concept.kind == "persona" else None)

    def batches(self, data: Subject) -> Iterator[Any]:
        """The concept's pictures and, if asked for, the class's."""
        return data.batches(
            self.prompt(data.concept), self.batch_size, prior=self.prior, prior_weight=self.prior_weight
        )
