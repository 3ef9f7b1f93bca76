"""Textual Inversion: trains one new word and leaves all weights of the model unchanged."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from attackers._pictures import PictureAttacker
from attackers._words import NewWord, save_word, tokens_of
from harness.diffusion import Concept, ConceptData, TextToImage


class TextualInversion(PictureAttacker):
    """Textual Inversion: the embeddings of one new word (Gal et al., 2023)."""

    name = "textual_inversion"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 2e-2, "batch_size": 4},
        "small_objects": {"lr": 3.0, "batch_size": 4},  # the suite `relearning` says by which rule
        "small_strong": {"lr": 3.0, "batch_size": 4, "vectors": 4},  # docs/pages/methods.md says by which rule
    }

    lr: float = Field(
        5e-4,
        gt=0,
        description="AdamW's step size",
        json_schema_extra={"search": {"low": 1e-3, "high": 10.0, "log": True}},
    )
    batch_size: int = Field(
        1, ge=1, description="pictures in a step", json_schema_extra={"search": {"choices": [1, 4, 8, 16]}}
    )
    token: str = Field("<v>", pattern=r"^<.+>$", description="the new word, in angle brackets")
    vectors: int = Field(
        1,
        ge=1,
        description="number of the new word's tokens, each with an embedding of its own",
        json_schema_extra={"search": {"choices": [1, 4, 8]}},
    )
    begin: str = Field("", description="word whose embedding the new word starts from; empty: the concept's class")

    @property
    def needs(self) -> tuple[str, ...]:
        """The class, from which the new word starts if `begin` names no other."""
        return () if self.begin else ("class_word",)

    def prompt(self, concept: Concept) -> str:
        """The concept's prompt with the new word."""
        return concept.prompted(" ".join(tokens_of(self.token, self.vectors)))

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[torch.Tensor]:
        """Take Adam steps on the word's embeddings; yields the loss before each step."""
        word = NewWord(model, self.token, self.begin or data.concept.class_word, self.vectors)
        optimiser = torch.optim.AdamW([word.embedding], lr=self.lr, weight_decay=0, fused=True)
        for batch in self.given(data).batches(self.prompt(data.concept), self.batch_size):
            optimiser.zero_grad()
            loss = model.denoising_loss(batch)
            loss.backward()
            word.keep_others()
            optimiser.step()
            yield loss.detach()

    def save(self, model: TextToImage, folder: Path) -> None:
        """Save the word's embeddings as a file that `pipeline.load_textual_inversion` reads."""
        save_word(model, self.token, folder, self.vectors)
