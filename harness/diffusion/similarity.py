"""How alike pictures are, and the metrics made of it: MSGR and MRSGR.

Source: MIMA, "Multi-concept Model Immunization through Differentiable Model Merging" (AAAI 2025), Eq. 10-13. A gap is
in per cent. A gap over a similarity too near zero says nothing: it is not defined, and told so.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch

LEAST = 0.05
"""A similarity below this is no denominator."""


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean cosine over all pairs of rows of (n, d) and (m, d)."""
    a, b = (torch.nn.functional.normalize(x.double(), dim=1) for x in (first, second))
    return float((a @ b.T).mean())


def paired_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean cosine of rows of the same index, (n, d) and (n, d)."""
    return float(torch.nn.functional.cosine_similarity(first.double(), second.double()).mean())


def msgr(adapted: Sequence[float], immunized: Sequence[float]) -> float | None:
    """Eq. 10: mean over target concepts of (M(r, A) − M(r, I)) / M(r, A), in %.

    adapted, immunized: by concept, the similarity to the reference r of what the attacker gets from the undefended
    (A) and from the immunized model (I). None if any M(r, A) is below LEAST.
    """
    if min(adapted) < LEAST:
        return None
    return 100 * fmean((a - i) / a for a, i in zip(adapted, immunized, strict=True))


def msgr_of_means(adapted: Sequence[float], immunized: Sequence[float]) -> float | None:
    """The variant of the authors' plotting code: the gap of the means over concepts, in %."""
    mean = fmean(adapted)
    return 100 * (mean - fmean(immunized)) / mean if mean >= LEAST else None


def mrsgr(others: Sequence[float], targets: Sequence[float]) -> float | None:
    """Eq. 11–13: (M̄_other − M̄_target) / M̄_other in %, M̄ the mean over concepts of the similarity between what
    the attacker gets with and without immunization. None if M̄_other is below LEAST.

    With a mean over all pairs of pictures M is below 1 even for equal sets, the lower the more varied they are, so a
    defense that does nothing has a gap wherever others and targets vary differently; over pairs of one seed it has
    none.
    """
    mean = fmean(others)
    return 100 * (mean - fmean(targets)) / mean if mean >= LEAST else None


def area(steps: Sequence[int], values: Sequence[float]) -> float:
    """Mean height of the curve from the first to the last step, by the trapezoidal rule; of one step, its value."""
    if len(steps) == 1:
        return values[0]
    width = steps[-1] - steps[0]
    spans = zip(steps, steps[1:], values, values[1:], strict=False)
    return sum((b - a) * (x + y) / 2 for a, b, x, y in spans) / width
