"""Trains some of a pipeline's weights with AdamW: the common part of LoRA, DreamBooth and full fine-tuning."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from attackers._pictures import PictureAttacker
from harness.diffusion import Batch, Concept, ConceptData, TextToImage


class WeightAttacker(PictureAttacker):
    """Trains some of a pipeline's weights with AdamW, as diffusers' training scripts do.

    A subclass defines the weights.
    """

    lr: float = Field(1e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(
        4, ge=1, description="pictures in a step", json_schema_extra={"search": {"choices": [1, 4, 8, 16]}}
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="step size over the steps: constant, or half a cosine that ends at 0 after `horizon` steps",
        json_schema_extra={"search": {"choices": ["constant", "cosine"]}},
    )
    horizon: int = Field(60, ge=1, description="number of steps of the cosine schedule")
    warmup: int = Field(
        0,
        ge=0,
        description="number of steps at first over which the step size rises from 0 in equal parts",
        json_schema_extra={"search": {"choices": [0, 5]}},
    )
    wording: Literal["own", "rare", "class", "empty"] = Field(
        "own",
        description="prompt for training and for the pictures afterwards: own: with the concept's words; rare: with "
        "the word `token` instead of them, and with the class for a subject; class: the class prompt; empty",
        json_schema_extra={"search": {"choices": ["own", "rare", "class", "empty"]}},
    )
    token: str = Field("sks", description="rare word")
    prior: int = Field(
        0,
        ge=0,
        description="number of pictures of the class to mix in, as many in a step as of the concept; 0: none",
        json_schema_extra={"search": {"choices": [0, 20]}},
    )
    prior_weight: float = Field(1.0, ge=0, description="weight of the loss on the class's pictures")
    retain: int = Field(
        0,
        ge=0,
        description="number of pictures of captions by the released model to mix in, as many in a step as of the "
        "concept; 0: none",
        json_schema_extra={"search": {"choices": [0, 20]}},
    )
    retain_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the loss on the retained pictures",
        json_schema_extra={"search": {"low": 0.3, "high": 3.0, "log": True}},
    )
    benign_steps: int = Field(
        0, ge=0, description="number of steps at first without the concept: on the class's and the retained pictures"
    )

    @model_validator(mode="after")
    def _given_pictures(self) -> Self:
        if self.benign_steps and not (self.prior or self.retain):
            raise ValueError("benign_steps train on other pictures: set prior or retain to their number")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """The class prompt, for its pictures or as the prompt, and captions to retain."""
        class_prompt = ("class_prompt",) if self.prior or self.wording == "class" else ()
        return (*class_prompt, "captions") if self.retain else class_prompt

    def prompt(self, concept: Concept) -> str:
        """The prompt of `concept` that `wording` says."""
        if self.wording == "own":
            return concept.prompted()
        if self.wording == "rare":
            return concept.prompted(f"{self.token} {concept.class_word}" if concept.kind == "subject" else self.token)
        return concept.class_prompt if self.wording == "class" else ""

    def class_images(self, steps: int) -> int:
        """Number of class pictures: no more than `steps` steps can use."""
        return min(self.prior, steps * self.batch_size)

    def kept_images(self, steps: int) -> int:
        """Number of pictures to retain: no more than `steps` steps can use."""
        return min(self.retain, steps * self.batch_size)

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """The parameters of `model` to train. Random numbers drawn here come from the attack's seed."""
        raise NotImplementedError

    def batches(self, data: ConceptData) -> Iterator[Batch]:
        """Yield batches of the concept's pictures and, if `prior` or `retain` is not 0, of as many pictures of the
        class and of captions, whose losses are added with their weights; of these alone in the first `benign_steps`
        steps."""
        rows, prompt, given = self.batch_size, self.prompt(data.concept), self.given(data)
        drawn = given.batches(prompt, rows, prior=self.prior)
        kept = given.kept(rows) if self.retain else repeat(None)
        for step, (batch, retained) in enumerate(zip(drawn, kept, strict=False)):
            parts = [(_rows(batch, slice(rows)), 1.0)] if step >= self.benign_steps else []
            if self.prior:
                parts.append((_rows(batch, slice(rows, None)), self.prior_weight))
            if retained:
                parts.append((retained, self.retain_weight))
            yield _sum(parts)

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[torch.Tensor]:
        """Take AdamW steps with the gradient's norm clipped to 1; yields the loss before each step."""
        with data.drawing():
            weights = model.unfreeze(self.weights(model))
        optimiser = torch.optim.AdamW(weights, lr=self.lr, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._share)
        for batch in self.batches(data):
            optimiser.zero_grad()
            loss = model.denoising_loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            yield loss.detach()

    def _share(self, step: int) -> float:
        """The step size after `step` steps, as a share of `lr`."""
        risen = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant":
            return risen
        return risen * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.horizon)))


def _rows(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch, without weights."""
    return Batch(batch.latents[rows], batch.prompts[rows], batch.noise[rows], batch.times[rows])


def _sum(parts: Sequence[tuple[Batch, float]]) -> Batch:
    """A batch whose mean loss is the sum of the batches' mean losses times their weights."""
    joined = Batch.join([batch for batch, _ in parts])
    total = len(joined.latents)
    rows = [torch.full((len(batch.latents),), weight * total / len(batch.latents)) for batch, weight in parts]
    return replace(joined, weights=torch.cat(rows))
