"""Ways to combine the weights adapted to several concepts into one model, differentiably, other than MIMA's merge.

All take the pre-trained weights W^p by name and the adapted ones W_n, (concepts, …) by name, and return weights by
name. Choices of entries, signs and directions are constants of the derivative.
"""

from __future__ import annotations

import torch

from defenses._merge import Weights


def mean(pretrained: Weights, adapted: Weights) -> dict[str, torch.Tensor]:
    """The mean over concepts (task arithmetic with the coefficient 1/N; Ilharco et al., 2023, after their Eq. 1)."""
    return {name: adapted[name].mean(0) for name in pretrained}


def ties(pretrained: Weights, adapted: Weights, density: float) -> dict[str, torch.Tensor]:
    """W^p plus the changes merged by TIES (Yadav et al., 2023, Algorithm 1, with λ = 1).

    Of each concept's change of a matrix the share `density` of the entries with the largest sizes stays, at least one.
    An entry's sign is that of the sum over concepts, and the mean is over the concepts whose entry is not zero and has
    this sign.
    """
    merged = {}
    for name, base in pretrained.items():
        changes = adapted[name] - base
        sizes = changes.detach().abs().flatten(1)
        least = sizes.topk(max(1, round(density * sizes.shape[1])), 1).values[:, -1:]
        trimmed = changes * ((sizes >= least) & (sizes > 0)).reshape(changes.shape)
        agrees = (trimmed.detach().sign() == trimmed.detach().sum(0).sign()) & (trimmed.detach() != 0)
        merged[name] = base + (trimmed * agrees).sum(0) / agrees.sum(0).clamp_min(1)
    return merged


def low_rank(pretrained: Weights, adapted: Weights, rank: int) -> dict[str, torch.Tensor]:
    """The adapted weights with each concept's change replaced by the closest one of the rank `rank` (Eckart and Young,
    1936), (concepts, out, width) by name. The derivative is the projection to the tangent space of matrices of that
    rank."""
    projected = {}
    for name, base in pretrained.items():
        changes = adapted[name] - base
        left, _, right = torch.linalg.svd(changes.detach().double(), full_matrices=False)
        u, v = left[..., :rank].to(base.dtype), right[..., :rank, :].mT.to(base.dtype)
        inside = u @ (u.mT @ changes)
        projected[name] = base + inside + (changes - inside) @ v @ v.mT
    return projected
