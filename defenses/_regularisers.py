"""The regularisers that raise or lower a condition number.

Source: "Model Immunization from a Condition Number Perspective" (ICML 2025). Both are functions of the Gram matrix
FFᵀ (rows, rows) of a batch's features F, whose nonzero eigenvalues are those of the Hessian FᵀF.
"""

from __future__ import annotations

import torch


def r_well(gram: torch.Tensor, p: int, floor: float = 0.0) -> torch.Tensor:
    """R_well(S) = ½σ₁² − ‖S‖_F²/(2p); minimising it lowers κ (ICML 2025, Eq. 9, after Nenov et al., 2024).

    gram: Gram matrix (rows, rows), which has the nonzero eigenvalues of the Hessian S. p: dimension of S. floor: added
    to σ₁, as in the released code. Returns a differentiable scalar.
    """
    return 0.5 * (torch.linalg.eigvalsh(gram)[-1] + floor) ** 2 - gram.square().sum() / (2 * p)


def r_ill(gram: torch.Tensor, k: int | None = None, floor: float | None = None) -> torch.Tensor:
    """R_ill(S) = 1/(‖S‖_F²/(2k) − ½σ_min²); minimising it raises κ (ICML 2025, Eq. 12).

    gram: Gram matrix (rows, rows), which has the nonzero eigenvalues of the Hessian S. k: rank of S; None: the number
    of nonzero eigenvalues. floor: None: σ_min is the smallest nonzero eigenvalue; otherwise σ_min = floor, the value
    that the released code computes for a rank-deficient S. Returns a differentiable scalar.
    """
    frobenius = gram.square().sum()
    if k is not None and floor is not None:
        return 1 / (frobenius / (2 * k) - 0.5 * floor**2)
    eigenvalues = torch.linalg.eigvalsh(gram)
    nonzero = eigenvalues > eigenvalues[-1] * len(gram) * torch.finfo(gram.dtype).eps
    smallest = eigenvalues[nonzero][0] if floor is None else torch.as_tensor(floor, dtype=gram.dtype)
    return 1 / (frobenius / (2 * (k or int(nonzero.sum()))) - 0.5 * smallest**2)
