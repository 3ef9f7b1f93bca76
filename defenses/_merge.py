"""Merging the cross-attention keys and values of several concepts into one model, differentiably.

Source: MIMA, "Multi-concept Model Immunization through Differentiable Model Merging" (AAAI 2025), its model merging
layer, which differentiates through the closed form of Custom Diffusion (Kumari et al., 2023, "multi-concept
composition"). With weights W of shape (width, out), W_n those adapted to concept n, W^p the pre-trained, C_n the text
embeddings (rows, width) of concept n, C all of them, and C_reg those of unrelated captions, the merged weights are

    φ = argmin ‖C_reg (φ − W^p)‖²   so that   C_n φ = C_n W_n for every n.

With G = C_regᵀ C_reg and P = G⁻¹Cᵀ(C G⁻¹ Cᵀ)⁻¹ = [P_1 … P_N] the solution is φ = W^p + Σ_n P_n C_n (W_n − W^p): linear
in all weights, by matrices P_n C_n that do not depend on them. They are factored once for a set of concepts and serve
every key and value matrix of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from harness import RunError
from harness.diffusion import TextToImage, subject_rows, token_rows

Weights = Mapping[str, torch.Tensor]
"""Weights by their names in the U-Net."""


@dataclass(frozen=True)
class Merge:
    """A merge layer for one set of concepts. All in float64.

    mixers: (concepts, width, width), the (P_n C_n)ᵀ. cond_captions: condition number of G with its ridge.
    cond_rows: that of C G⁻¹ Cᵀ. amplification: ‖PC‖₂, how much the merge can enlarge a change all concepts share.
    rows: how many rows of C bind; dropped: how many were left out as (nearly) a combination of the others.
    """

    mixers: torch.Tensor
    cond_captions: float
    cond_rows: float
    amplification: float
    rows: int
    dropped: int

    @classmethod
    def factor(
        cls, concepts: Sequence[torch.Tensor], captions: torch.Tensor, ridge: float = 1e-4, duplicate: float = 1e-3
    ) -> Merge:
        """The layer of `concepts`, each (rows, width), and `captions` (rows, width).

        ridge: G becomes G + ridge · tr(G)/width · I. duplicate: a row is dropped if, in a QR factorisation with
        pivoting, what is left of it is at most this share of the largest row. Raises `RunError` if nothing is left
        of a concept's rows, or G is singular.
        """
        if not concepts or not all(len(rows) for rows in concepts):
            raise RunError("a merge needs at least one concept, and of each at least one row of text embeddings")
        every = torch.cat(list(concepts)).double()
        owner = torch.tensor([n for n, rows in enumerate(concepts) for _ in rows], device=every.device)
        kept = _independent(every, duplicate)
        for n in range(len(concepts)):
            if not (owner[kept] == n).any():
                raise RunError(
                    f"concept {n + 1} of {len(concepts)} has no text embedding of its own to be merged by: "
                    "give it other words than the concepts before it"
                )
        c, owner = every[kept], owner[kept]
        captions = captions.double()
        gram = captions.T @ captions
        identity = torch.eye(gram.shape[0], dtype=torch.float64, device=gram.device)
        gram = gram + ridge * gram.trace() / len(gram) * identity
        cond_captions = float(torch.linalg.cond(gram))
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed or cond_captions > 1 / torch.finfo(torch.float64).eps:
            rank = int(torch.linalg.matrix_rank(captions))
            raise RunError(
                f"the captions' embeddings span {rank} of {len(gram)} directions, so the merge has no "
                "single solution: give more captions, or a ridge above 0"
            )
        solved = torch.cholesky_solve(c.T, factor)  # G⁻¹Cᵀ
        inner = c @ solved
        p = torch.linalg.solve(inner, solved, left=False)
        mixers = torch.stack([(p[:, owner == n] @ c[owner == n]).T for n in range(len(concepts))])
        return cls(
            mixers=mixers,
            cond_captions=cond_captions,
            cond_rows=float(torch.linalg.cond(inner)),
            amplification=float(torch.linalg.matrix_norm(p @ c, 2)),
            rows=len(c),
            dropped=len(every) - len(c),
        )

    @classmethod
    def layer(
        cls, model: TextToImage, prompts: Sequence[tuple[str, str]], captions: Sequence[str], ridge: float
    ) -> Merge:
        """The layer for concepts given as (prompt, subject in it), and captions.

        A concept's rows run from its subject's last token to the end token, because concepts share the rows before it
        and padding carries no meaning; a caption's rows are those of all its tokens. Raises `RunError` without
        captions, and as `factor` does.
        """
        if not captions:
            raise RunError("a merge needs captions; add `captions: FILE` to the concept file, one a line")
        concepts = [subject_rows(model, prompt, subject, padding=False) for prompt, subject in prompts]
        return cls.factor(concepts, torch.cat([token_rows(model, caption) for caption in captions]), ridge)

    @property
    def report(self) -> dict[str, float]:
        """Its numerics by name: two condition numbers, the amplification and the number of dropped rows."""
        return {
            "condition of captions": self.cond_captions,
            "condition of rows": self.cond_rows,
            "amplification": self.amplification,
            "rows dropped": self.dropped,
        }

    def merged(self, pretrained: Weights, adapted: Weights) -> dict[str, torch.Tensor]:
        """The merged weights by name of all matrices of `pretrained`, by one product, as the layer is the same for
        every key and value matrix. pretrained: (out, width) by name; adapted: (concepts, out, width) by name."""
        sizes = [len(weight) for weight in pretrained.values()]
        stacked = self(torch.cat(list(pretrained.values())), torch.cat([adapted[name] for name in pretrained], 1))
        return dict(zip(pretrained, stacked.split(sizes), strict=True))

    def __call__(self, pretrained: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
        """The merged weights (out, width), in torch's layout, of `pretrained` (out, width) and `adapted` (concepts,
        out, width), in their precision; computed in float64 and differentiable by both."""
        base = pretrained.double()
        moved = (adapted.double() - base) @ self.mixers
        return (base + moved.sum(0)).to(pretrained.dtype)


@torch.no_grad()
def assign(model: TextToImage, weights: Weights) -> None:
    """Copy `weights` into the model's own of the same names."""
    own = dict(model.unet.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)


def _independent(rows: torch.Tensor, tolerance: float) -> torch.Tensor:
    """The indices of rows to keep, ascending, so that none of them is nearly a combination of the others."""
    r, pivots = scipy.linalg.qr(rows.T.cpu().numpy(), mode="r", pivoting=True)
    left = np.abs(np.diagonal(r))
    return torch.from_numpy(np.sort(pivots[: int((left > tolerance * left[0]).sum())])).to(rows.device)
