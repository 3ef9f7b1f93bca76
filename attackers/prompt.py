"""An attacker that trains no weight: it searches words that bring the concept back."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from attackers._pictures import PictureAttacker
from attackers._words import NewWord, on_simplex, tokens_of, whole_words
from harness import count_gradient
from harness.diffusion import Batch, Concept, ConceptData, TextToImage


class Prompt(PictureAttacker):
    """UnlearnDiffAtk: words before the concept's prompt that bring the concept back (Zhang et al., 2024).

    Each place of the prefix has a point on the simplex over the vocabulary. A step draws a token for each place, takes
    the gradient of the loss with respect to the one-hot vectors, clipped to [−1, 1], for the gradient at the points,
    takes a step of Adam and projects them back. The prefix has the token of the largest coordinate at each place.
    `search: random` is the control: each step draws a prefix, and the best one so far on the same draws is kept.

    The time step is drawn, where the authors go through 50 of them in turn; and the harness measures the prefix after
    given steps, where they stop at the first success. Only tokens that are whole words are used.

    It does not break the undefended small base model (see docs/pages/methods.md), so it belongs to no worst case
    there.
    """

    name = "prompt"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"lr": 0.03, "batch_size": 16}}

    search: Literal["gradient", "random"] = Field("gradient", description="how the words are searched")
    words: int = Field(
        3, ge=1, description="number of words in the prefix", json_schema_extra={"search": {"choices": [1, 3, 5]}}
    )
    lr: float = Field(
        0.01,
        gt=0,
        description="Adam's step size on the simplex",
        json_schema_extra={"search": {"low": 1e-3, "high": 1.0, "log": True}},
    )
    decay: float = Field(0.1, ge=0, description="weight decay")
    batch_size: int = Field(
        1, ge=1, description="pictures in a step", json_schema_extra={"search": {"choices": [1, 4, 8, 16]}}
    )
    token: str = Field("<p>", pattern=r"^<.+>$", description="placeholder of the prefix, in angle brackets")

    def prompt(self, concept: Concept) -> str:
        """The concept's prompt, or for a subject the class prompt, after the placeholders of the words."""
        prompt = concept.prompted(concept.class_word if concept.kind == "subject" else None)
        return " ".join([*tokens_of(self.token, self.words), prompt])

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[torch.Tensor]:
        """Search words; yields the loss of the words drawn in the step or, at random, of the best so far."""
        numbers = [*whole_words(model).values()]
        prefix = NewWord(model, self.token, "a", self.words)
        known = prefix.embedding.detach()[numbers].clone()
        batches = self.given(data).batches(self.prompt(data.concept), self.batch_size)
        draw = torch.Generator().manual_seed(data.seed)
        search = self._descend if self.search == "gradient" else self._choose
        for loss, places in search(model, prefix, known, batches, draw):
            prefix.set(known[places])
            yield loss

    def _descend(
        self, model: TextToImage, prefix: NewWord, known: torch.Tensor, batches: Iterator[Batch], draw: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        points = torch.full((self.words, len(known)), 1 / len(known), device=known.device, requires_grad=True)
        optimiser = torch.optim.Adam([points], lr=self.lr, weight_decay=self.decay)
        for batch in batches:
            level = torch.rand(self.words, 1, generator=draw).to(known.device)
            drawn = (points.detach().cumsum(1) < level).sum(1).clamp(max=len(known) - 1)
            prefix.set(known[drawn])
            loss = model.denoising_loss(batch)
            (gradient,) = torch.autograd.grad(loss, prefix.embedding)
            points.grad = (gradient[prefix.numbers] @ known.T).clamp(-1, 1)
            optimiser.step()
            points.data = on_simplex(points.data)
            yield loss.detach(), points.argmax(1)

    def _choose(
        self, model: TextToImage, prefix: NewWord, known: torch.Tensor, batches: Iterator[Batch], draw: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batch, least, best = next(batches), torch.inf, torch.zeros(0)
        while True:
            drawn = torch.randint(len(known), (self.words,), generator=draw)
            prefix.set(known[drawn])
            with torch.no_grad():
                loss = float(model.denoising_loss(batch))
            count_gradient(len(batch.latents), 0.5)
            if loss < least:
                least, best = loss, drawn
            yield torch.tensor(least), best

    def save(self, model: TextToImage, folder: Path) -> None:
        """Save the words that come before the concept's prompt as a text file, prefix.txt."""
        embeddings = model.text_encoder.get_input_embeddings().weight.detach()
        places = model.tokenizer.convert_tokens_to_ids(tokens_of(self.token, self.words))
        words = [
            next(
                word
                for word, number in whole_words(model).items()
                if torch.equal(embeddings[number], embeddings[place])
            )
            for place in places
        ]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prefix.txt").write_text(" ".join(words))
