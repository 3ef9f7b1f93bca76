"""Merges the cross-attention keys and values of several concepts into one model, differentiably.

Source: the model merging layer of MIMA, "Multi-concept Model Immunization through Differentiable Model Merging" (AAAI
2025), which differentiates through the closed form of Custom Diffusion (Kumari et al., 2023, "multi-concept
composition"). Let W^p be the pre-trained weights (width, out), W_n the weights adapted to concept n, C_n the text
embeddings (rows, width) of concept n, C those of all concepts, and C_reg those of unrelated captions. The merged
weights are

    φ = argmin ‖C_reg (φ − W^p)‖²   so that   C_n φ = C_n W_n for every n.

With G = C_regᵀ C_reg and P = G⁻¹Cᵀ(C G⁻¹ Cᵀ)⁻¹ = [P_1 … P_N] the solution is φ = W^p + Σ_n P_n C_n (W_n − W^p). It is
linear in all weights, and the matrices P_n C_n do not depend on them. They are computed once for a set of concepts and
serve every key and value matrix of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from harness import RunError
from harness.diffusion import TextToImage, token_rows, word_rows

Weights = Mapping[str, torch.Tensor]
"""Weights by name in the U-Net."""


@dataclass(frozen=True)
class Merge:
    """A merge layer for one set of concepts, computed in float64.

    mixers: the matrices (P_n C_n)ᵀ, (concepts, width, width). cond_captions: condition number of G with its ridge.
    cond_rows: condition number of C G⁻¹ Cᵀ. amplification: ‖PC‖₂, the largest factor by which the merge can enlarge a
    change that all concepts share. rows: number of rows of C in the constraint. dropped: number of rows left out
    because they are nearly linear combinations of the others.
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
        """Compute the layer from text embeddings.

        concepts: the rows C_n of each concept, (rows, width). captions: the rows C_reg, (rows, width). ridge: G becomes
        G + ridge · tr(G)/width · I. duplicate: in a QR factorisation with pivoting, a row is dropped if its residual is
        at most this share of the largest row. Raises `RunError` if all rows of a concept are dropped, or G is singular.
        """
        if not concepts or not all(len(rows) for rows in concepts):
            raise RunError(
                "a merge needs at least one concept, and at least one row of text embeddings of each concept"
            )
        every = torch.cat(list(concepts)).double()
        owner = torch.tensor([n for n, rows in enumerate(concepts) for _ in rows], device=every.device)
        kept = _independent(every, duplicate)
        for n in range(len(concepts)):
            if not (owner[kept] == n).any():
                raise RunError(
                    f"concept {n + 1} of {len(concepts)} has no text embedding that differs from those of the other "
                    "concepts, so the merge cannot separate it: give it other words"
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
        """Compute the layer for concepts with the text encoder of `model`.

        prompts: for each concept its prompt and the concept's words in it. captions: unrelated captions. ridge: as in
        `factor`. A concept's rows run from the first token of its words to the end token, because the concepts share
        the rows before, and padding has no meaning. A caption's rows are those of all its tokens. Raises `RunError` if
        there are no captions, and as `factor` does.
        """
        if not captions:
            raise RunError("a merge needs captions; add `captions: FILE` to the concept file, one a line")
        concepts = [word_rows(model, prompt, words) for prompt, words in prompts]
        return cls.factor(concepts, torch.cat([token_rows(model, caption) for caption in captions]), ridge)

    @property
    def report(self) -> dict[str, float]:
        """Numbers for the run's notes, by name: two condition numbers, the amplification and the number of dropped
        rows."""
        return {
            "condition of captions": self.cond_captions,
            "condition of rows": self.cond_rows,
            "amplification": self.amplification,
            "rows dropped": self.dropped,
        }

    def merged(self, pretrained: Weights, adapted: Weights) -> dict[str, torch.Tensor]:
        """The merged weights (out, width) by name, for all matrices in `pretrained`.

        pretrained: W^p, (out, width) by name. adapted: the weights W_n, (concepts, out, width) by name. One product
        computes all of them, because the layer is the same for every key and value matrix.
        """
        sizes = [len(weight) for weight in pretrained.values()]
        stacked = self(torch.cat(list(pretrained.values())), torch.cat([adapted[name] for name in pretrained], 1))
        return dict(zip(pretrained, stacked.split(sizes), strict=True))

    def __call__(self, pretrained: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
        """The merged weights (out, width) of one matrix, in torch's layout and in the precision of the arguments.

        pretrained: W^p, (out, width). adapted: the weights W_n, (concepts, out, width). The result is computed in
        float64 and is differentiable with respect to both.
        """
        base = pretrained.double()
        moved = (adapted.double() - base) @ self.mixers
        return (base + moved.sum(0)).to(pretrained.dtype)


@torch.no_grad()
def assign(model: TextToImage, weights: Weights) -> None:
    """Copy `weights` into the U-Net weights of `model` that have the same names, in place."""
    own = dict(model.unet.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)


def _independent(rows: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Indices of the rows to keep, ascending, so that no row is nearly a linear combination of the others."""
    r, pivots = scipy.linalg.qr(rows.T.cpu().numpy(), mode="r", pivoting=True)
    left = np.abs(np.diagonal(r))
    return torch.from_numpy(np.sort(pivots[: int((left > tolerance * left[0]).sum())])).to(rows.device)
