"""Similarities of pictures computed from embeddings, and the mean height of a curve."""

from __future__ import annotations

from collections.abc import Sequence

import torch

LEAST = 0.05
"""Smallest similarity that may be a denominator; with a smaller one a gap is undefined."""


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean cosine over all pairs of a row of `first` (n, d) and a row of `second` (m, d)."""
    a, b = (torch.nn.functional.normalize(x.double(), dim=1) for x in (first, second))
    return float((a @ b.T).mean())


def paired_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean cosine over pairs of rows with the same index in `first` and `second`, both (n, d)."""
    return float(torch.nn.functional.cosine_similarity(first.double(), second.double()).mean())


def area(steps: Sequence[int], values: Sequence[float]) -> float:
    """Mean height of the curve of `values` over `steps`, by the trapezoidal rule; for one step its value."""
    if len(steps) == 1:
        return values[0]
    width = steps[-1] - steps[0]
    spans = zip(steps, steps[1:], values, values[1:], strict=False)
    return sum((b - a) * (x + y) / 2 for a, b, x, y in spans) / width
