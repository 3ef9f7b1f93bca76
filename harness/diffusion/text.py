"""Rows of text embeddings: what the cross-attention's keys and values are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.diffusion.model import TextToImage
from harness.errors import RunError


def token_rows(model: TextToImage, prompt: str) -> torch.Tensor:
    """(rows, width) float64 embeddings of a prompt's tokens and the end token; the start token's says nothing."""
    (numbers,) = model.tokenizer([prompt]).input_ids
    return model.text([prompt])[0, 1 : len(numbers)].double()


def subject_rows(model: TextToImage, prompt: str, subject: str = "", padding: bool = True) -> torch.Tensor:
    """(rows, width) float64 embeddings of a prompt, from the last token of `subject` on; without one, from the
    prompt's last token on. padding: with what fills it up behind its end token."""
    numbers, of = model.tokenizer([prompt, subject]).input_ids
    last = _last(numbers[1:-1], of[1:-1] or numbers[-2:-1])
    if last is None:
        raise RunError(f"the prompt '{prompt}' does not hold its subject '{subject}'")
    return model.text([prompt])[0, 1 + last : None if padding else len(numbers)].double()


def _last(tokens: Sequence[int], subject: Sequence[int]) -> int | None:
    """Where the last occurrence of `subject` ends."""
    for end in range(len(tokens), len(subject) - 1, -1):
        if list(tokens[end - len(subject) : end]) == list(subject):
            return end - 1
    return None
