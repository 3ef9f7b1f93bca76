"""A new word: one token whose embedding is trained while all others stay fixed (Textual Inversion)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import torch as safetensors

from harness import RunError
from harness.diffusion import TextToImage


class NewWord:
    """A token added to the vocabulary of `model`, with the embedding of another word at first.

    token: the new token. begin: the word whose embedding it starts from; a word of several tokens gives their mean.
    Raises `RunError` if the vocabulary has `token` already, or if `begin` has no token.
    """

    def __init__(self, model: TextToImage, token: str, begin: str) -> None:
        if token in model.tokenizer.get_vocab():
            raise RunError(f"the base model's vocabulary already has the token '{token}'; choose another placeholder")
        numbers = model.tokenizer([begin]).input_ids[0][1:-1]
        if not numbers:
            raise RunError(
                f"'{begin}' has no token from which the new token '{token}' could start; choose another word"
            )
        model.tokenizer.add_tokens([token])
        self.token, self.number = token, model.tokenizer.convert_tokens_to_ids(token)
        with torch.random.fork_rng():  # resizing draws an embedding that is not used
            model.text_encoder.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)
        self.embedding = model.text_encoder.get_input_embeddings().weight
        model.unfreeze([self.embedding])
        with torch.no_grad():
            self.embedding[self.number] = self.embedding[numbers].mean(0)

    def keep_others(self) -> None:
        """Set the gradients of all other embeddings to zero. Call it between backward and step; the optimiser must have
        no weight decay on the embeddings."""
        assert self.embedding.grad is not None
        row = self.embedding.grad[self.number].clone()
        self.embedding.grad.zero_()
        self.embedding.grad[self.number] = row


def save_word(model: TextToImage, token: str, folder: Path) -> None:
    """Save the embedding of `token` in `folder`, as a file that `pipeline.load_textual_inversion` reads."""
    number = model.tokenizer.convert_tokens_to_ids(token)
    embedding = model.text_encoder.get_input_embeddings().weight.detach()[number].clone()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "learned_embeds.safetensors").write_bytes(safetensors.save({token: embedding}))
