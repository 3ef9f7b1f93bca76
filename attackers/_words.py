"""A new word: tokens whose embeddings are trained while all others stay fixed (Textual Inversion)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import torch as safetensors

from harness import RunError
from harness.diffusion import TextToImage


def tokens_of(token: str, vectors: int = 1) -> list[str]:
    """The tokens of the word `token` with `vectors` embeddings, named as diffusers names them."""
    return [token, *(f"{token}_{i}" for i in range(1, vectors))]


class NewWord:
    """Tokens added to the vocabulary of `model`, with the embedding of another word at first.

    token: the new word. begin: the word whose embedding it starts from; a word of several tokens gives their mean.
    vectors: number of the new word's tokens. Raises `RunError` if the vocabulary has one of them already, if `begin`
    has no token, or if the base model has several text encoders.
    """

    def __init__(self, model: TextToImage, token: str, begin: str, vectors: int = 1) -> None:
        if len(model.text_encoders) > 1:
            raise RunError(
                f"a new word has an embedding of one text encoder, and a {model.family.layout} has "
                f"{len(model.text_encoders)}: leave out the attacker"
            )
        new, vocabulary = tokens_of(token, vectors), model.tokenizer.get_vocab()
        if known := [name for name in new if name in vocabulary]:
            raise RunError(
                f"the base model's vocabulary already has the token '{known[0]}'; choose another placeholder"
            )
        numbers = model.tokenizer([begin]).input_ids[0][1:-1]
        if not numbers:
            raise RunError(
                f"'{begin}' has no token from which the new token '{token}' could start; choose another word"
            )
        model.tokenizer.add_tokens(new)
        self.numbers = model.tokenizer.convert_tokens_to_ids(new)
        with torch.random.fork_rng():  # resizing draws an embedding that is not used
            model.text_encoder.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)
        self.embedding = model.text_encoder.get_input_embeddings().weight
        model.unfreeze([self.embedding])
        self.set(self.embedding.detach()[numbers].mean(0))

    def set(self, embeddings: torch.Tensor) -> None:
        """Set the new word's embeddings to `embeddings`, (vectors, width), or (width,) for all the same."""
        with torch.no_grad():
            self.embedding[self.numbers] = embeddings

    def keep_others(self) -> None:
        """Set the gradients of all other embeddings to zero. Call it between backward and step; the optimiser must have
        no weight decay on the embeddings."""
        assert self.embedding.grad is not None
        rows = self.embedding.grad[self.numbers].clone()
        self.embedding.grad.zero_()
        self.embedding.grad[self.numbers] = rows


def whole_words(model: TextToImage) -> dict[str, int]:
    """The words that are a token of their own in the vocabulary of `model`, with the token's number, by number."""
    special = set(model.tokenizer.all_special_tokens)
    tokens = sorted(set(model.tokenizer.get_vocab()) - special, key=model.tokenizer.convert_tokens_to_ids)
    words = [token.removesuffix("</w>") for token in tokens]
    split = model.tokenizer(words).input_ids
    numbers = model.tokenizer.convert_tokens_to_ids(tokens)
    return {word: number for word, number, row in zip(words, numbers, split, strict=True) if row[1:-1] == [number]}


def on_simplex(points: torch.Tensor) -> torch.Tensor:
    """The nearest points to `points`, (n, width), whose coordinates are not negative and sum to 1 (Duchi et al.,
    2008)."""
    ordered = points.sort(-1, descending=True).values
    excess = (ordered.cumsum(-1) - 1) / torch.arange(1, points.shape[-1] + 1, device=points.device)
    count = (ordered > excess).sum(-1, keepdim=True)
    return (points - excess.gather(-1, count - 1)).clamp(min=0)


def save_word(model: TextToImage, token: str, folder: Path, vectors: int = 1) -> None:
    """Save the embeddings of the word `token` of `model`, with `vectors` tokens, in `folder`, as a file that
    `pipeline.load_textual_inversion` reads."""
    numbers = model.tokenizer.convert_tokens_to_ids(tokens_of(token, vectors))
    embeddings = model.text_encoder.get_input_embeddings().weight.detach()[numbers].clone()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "learned_embeds.safetensors").write_bytes(safetensors.save({token: embeddings.squeeze(0)}))
