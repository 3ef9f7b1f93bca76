"""Rows of text embeddings, from which the cross-attention computes its keys and values."""

from __future__ import annotations

import torch

from harness.diffusion.model import TextToImage
from harness.errors import RunError


def token_rows(model: TextToImage, prompt: str) -> torch.Tensor:
    """Text embeddings (rows, width), float64, of the tokens of `prompt` and its end token, by the text encoder of
    `model`. The start token is left out, because its embedding is the same for all prompts."""
    (numbers,) = model.tokenizer([prompt]).input_ids
    return model.text([prompt])[0, 1 : len(numbers)].double()


def word_rows(model: TextToImage, prompt: str, words: str) -> torch.Tensor:
    """Text embeddings (rows, width), float64, of `prompt` from the first token of some of its words to the end token.

    model: its text encoder computes the embeddings. prompt: the prompt. words: the words; empty: the prompt's last
    token. Raises `RunError` if the prompt does not contain the words.
    """
    first, _ = _place(model, prompt, words)
    return token_rows(model, prompt)[first - 1 :]


def edit_rows(model: TextToImage, prompt: str, words: str = "") -> torch.Tensor:
    """Text embeddings (rows, width), float64, of `prompt` from the last token of some of its words to the end of the
    padding: the rows that UCE edits.

    model: its text encoder computes the embeddings. prompt: the prompt. words: the words; empty: the prompt's last
    token. Raises `RunError` if the prompt does not contain the words.
    """
    _, last = _place(model, prompt, words)
    return model.text([prompt])[0, last:].double()


def _place(model: TextToImage, prompt: str, words: str) -> tuple[int, int]:
    """Indices of the first and the last token of the last occurrence of `words` in `prompt`; without words, of the
    prompt's last token."""
    whole, part = ([*numbers[:-1]] for numbers in model.tokenizer([prompt, words]).input_ids)
    part = part[1:] or whole[-1:]
    for end in range(len(whole), len(part) - 1, -1):
        if whole[end - len(part) : end] == part:
            return end - len(part), end - 1
    raise RunError(f"the prompt '{prompt}' does not contain the words '{words}'")
