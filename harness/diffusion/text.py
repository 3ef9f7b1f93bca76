"""Rows of text embeddings, from which the cross-attention computes its keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.diffusion.model import TextToImage
from harness.errors import RunError


def token_rows(model: TextToImage, prompt: str) -> torch.Tensor:
    """Text embeddings (rows, width), float64, of the tokens of `prompt` and its end token, by the text encoder of
    `model`. The start token is left out, because its embedding is the same for all prompts."""
    (numbers,) = model.tokenizer([prompt]).input_ids
    return model.text([prompt])[0, 1 : len(numbers)].double()


def subject_rows(model: TextToImage, prompt: str, subject: str = "", padding: bool = True) -> torch.Tensor:
    """Text embeddings (rows, width), float64, of a prompt from the last token of some of its words to the end.

    model: its text encoder computes the embeddings. prompt: the prompt. subject: the words; empty: the prompt's last
    token. padding: whether to include the padding after the end token. Raises `RunError` if the prompt does not contain
    the words.
    """
    numbers, words = model.tokenizer([prompt, subject]).input_ids
    last = _last(numbers[1:-1], words[1:-1] or numbers[-2:-1])
    if last is None:
        raise RunError(f"the prompt '{prompt}' does not contain the words '{subject}'")
    return model.text([prompt])[0, 1 + last : None if padding else len(numbers)].double()


def _last(tokens: Sequence[int], subject: Sequence[int]) -> int | None:
    """Index of the last token of the last occurrence of `subject` in `tokens`; None if there is none."""
    for end in range(len(tokens), len(subject) - 1, -1):
        if list(tokens[end - len(subject) : end]) == list(subject):
            return end - 1
    return None
