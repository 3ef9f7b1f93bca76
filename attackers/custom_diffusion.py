"""Custom Diffusion: trains the cross-attention's keys and values, and one new word."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from attackers._pictures import PictureAttacker
from attackers._words import NewWord
from harness.diffusion import Concept, ConceptData, TextToImage, cross_attention


class CustomDiffusion(PictureAttacker):
    """Custom Diffusion: cross-attention keys and values, and a new word (Kumari et al., 2023)."""

    name = "custom_diffusion"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 8e-3, "word_lr": 5e-3, "prior": 20, "batch_size": 8, "flip": False}
    }

    lr: float = Field(
        1e-5,
        gt=0,
        description="AdamW's step size for keys and values",
        json_schema_extra={"search": {"low": 1e-4, "high": 0.1, "log": True}},
    )
    word_lr: float | None = Field(
        None,
        gt=0,
        description="step size for the word's embedding; null: `lr`",
        json_schema_extra={"search": {"low": 1e-3, "high": 1.0, "log": True}},
    )
    batch_size: int = Field(
        1, ge=1, description="pictures in a step", json_schema_extra={"search": {"choices": [1, 4, 8, 16]}}
    )
    token: str = Field("<v>", pattern=r"^<.+>$", description="the new word, in angle brackets")
    prior: int = Field(
        200,
        ge=0,
        description="number of pictures of the class for prior preservation; 0: none",
        json_schema_extra={"search": {"choices": [0, 20]}},
    )
    prior_weight: float = Field(1.0, ge=0, description="weight of the loss on the class's pictures")
    flip: bool = Field(True, description="mirror half of the pictures")

    @property
    def needs(self) -> tuple[str, ...]:
        """The class, from which the new word starts, and the class prompt for a prior."""
        return ("class_word", "class_prompt") if self.prior else ("class_word",)

    def prompt(self, concept: Concept) -> str:
        """The concept's prompt with the new word; for a subject the word is followed by its class."""
        return concept.prompted(f"{self.token} {concept.class_word}" if concept.kind == "subject" else self.token)

    def class_images(self, steps: int) -> int:
        """Number of class pictures for prior preservation: no more than `steps` steps can use."""
        return min(self.prior, steps * self.batch_size)

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[torch.Tensor]:
        """Take AdamW steps; yields the loss before each step.

        As in the authors' code, the start token's keys and values get no gradient, and the loss on the concept is a sum
        over the latents' channels, that on the class a mean. There are no resized pictures here.
        """
        word = NewWord(model, self.token, data.concept.class_word)
        projections = [
            projection for _, layer in cross_attention(model.unet) for projection in (layer.to_k, layer.to_v)
        ]
        weights = model.unfreeze([projection.weight for projection in projections])
        word_group: dict[str, Any] = {"params": [word.embedding], "lr": self.word_lr or self.lr, "weight_decay": 0}
        optimiser = torch.optim.AdamW([{"params": weights}, word_group], lr=self.lr, fused=True)
        hooks = [projection.register_forward_hook(_hold_start) for projection in projections]
        prompt = self.prompt(data.concept)
        channels = model.unet.config.in_channels
        weight = self.prior_weight / channels
        batches = self.given(data).batches(
            prompt, self.batch_size, flip=self.flip, prior=self.prior, prior_weight=weight
        )
        try:
            for batch in batches:
                optimiser.zero_grad()
                loss = channels * model.denoising_loss(batch)
                loss.backward()
                word.keep_others()
                torch.nn.utils.clip_grad_norm_([*weights, word.embedding], 1.0)
                optimiser.step()
                yield loss.detach()
        finally:
            for hook in hooks:
                hook.remove()


def _hold_start(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)
