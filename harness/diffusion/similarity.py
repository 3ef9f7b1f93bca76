"""Similarities of pictures, by their embeddings, and the mean height of a curve."""

from __future__ import annotations

from collections.abc import Sequence

import torch

LEAST = 0.05
"""A similarity below this divides nothing: a gap over it is undefined."""


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean cosine over all pairs of rows of (n, d) and (m, d)."""
    a, b = (torch.nn.functional.normalize(x.double(), dim=1) for x in (first, second))
    return float((a @ b.T).mean())


def paired_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean cosine of rows of the same index, (n, d) and (n, d)."""
    return float(torch.nn.functional.cosine_similarity(first.double(), second.double()).mean())


def area(steps: Sequence[int], values: Sequence[float]) -> float:
    """Mean height of a curve from the first to the last step, by the trapezoidal rule; of one step, its value."""
    if len(steps) == 1:
        return values[0]
    width = steps[-1] - steps[0]
    spans = zip(steps, steps[1:], values, values[1:], strict=False)
    return sum((b - a) * (x + y) / 2 for a, b, x, y in spans) / width
