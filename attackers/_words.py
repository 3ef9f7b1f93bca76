"""A new word: one token whose embedding is trained while every other stays (Textual Inversion)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import torch as safetensors

from harness import RunError
from harness.diffusion import TextToImage


class NewWord:
    """A token added to a model's vocabulary, its embedding begun as another word's.

    A word of several tokens gives their mean. Raises `RunError` if the token exists, or the word has none.
    """

    def __init__(self, model: TextToImage, token: str, begin: str) -> None:
        if token in model.tokenizer.get_vocab():
            raise RunError(f"the base's vocabulary already holds the token '{token}'; choose another placeholder")
        numbers = model.tokenizer([begin]).input_ids[0][1:-1]
        if not numbers:
            raise RunError(f"'{begin}' holds no word for the new token '{token}' to begin with")
        model.tokenizer.add_tokens([token])
        self.token, self.number = token, model.tokenizer.convert_tokens_to_ids(token)
        with torch.random.fork_rng():  # it draws an embedding that we do not use
            model.text_encoder.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)
        self.embedding = model.text_encoder.get_input_embeddings().weight
        model.unfreeze([self.embedding])
        with torch.no_grad():
            self.embedding[self.number] = self.embedding[numbers].mean(0)

    def keep_others(self) -> None:
        """To be called between backward and step: no other embedding moves (under an optimiser without decay)."""
        assert self.embedding.grad is not None
        row = self.embedding.grad[self.number].clone()
        self.embedding.grad.zero_()
        self.embedding.grad[self.number] = row


def save_word(model: TextToImage, token: str, folder: Path) -> None:
    """Leave a word's embedding as a file that `pipeline.load_textual_inversion` reads."""
    number = model.tokenizer.convert_tokens_to_ids(token)
    embedding = model.text_encoder.get_input_embeddings().weight.detach()[number].clone()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "learned_embeds.safetensors").write_bytes(safetensors.save({token: embedding}))
