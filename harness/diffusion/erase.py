"""Unified concept editing (UCE): erases concepts from a base model in closed form.

Source: Gandikota et al., "Unified Concept Editing in Diffusion Models" (WACV 2024), Eq. 7: each cross-attention key
and value matrix W₀ becomes

    W = (λ W₀ + e Σ v* cᵀ + p Σ W₀ c cᵀ) (λ I + e Σ c cᵀ + p Σ c cᵀ)⁻¹,

where the sums with e run over the rows c of the prompts to erase, with v* = W₀ c* from the rows c* of their anchors,
and the sums with p run over the rows of the prompts to keep. Rows are paired as in the authors' code: from the last
token of the words in a prompt and the last token of its anchor. Its own earlier tokens are not edited, even if a name
has several. As in that code's first version the empty prompt is kept, which classifier-free guidance uses; here the
anchors are kept too.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from harness.diffusion.model import TextToImage, cross_attention
from harness.diffusion.protocol import Erasure
from harness.diffusion.text import edit_rows


@torch.no_grad()
def erase(
    model: TextToImage,
    edits: Iterable[tuple[str, str, str]],
    kept: Iterable[tuple[str, str]],
    settings: Erasure,
) -> None:
    """Edit the cross-attention keys and values of `model` in place; the edit is computed in float64.

    edits: (prompt, the concept's words in it, anchor); the anchor is the prompt whose meaning replaces the old one,
    e.g. ("an artwork by marvo", "marvo", "an artwork"). kept: (prompt, the concept's words in it) whose keys and values
    stay, besides the empty prompt and the anchors. settings: the weights e, p and λ. Rows are the text embeddings from
    the last token of the words (of an anchor from its last token) to the end. Raises `RunError` if a prompt does not
    contain its words.
    """
    old, new, edits = [], [], list(edits)
    for prompt, words, anchor in edits:
        rows = edit_rows(model, prompt, words)
        replaced = edit_rows(model, anchor)
        shared = min(len(rows), len(replaced))
        old.append(rows[:shared])
        new.append(replaced[:shared])
    c, target = torch.cat(old), torch.cat(new)
    anchors = dict.fromkeys(anchor for _, _, anchor in edits)
    every = dict.fromkeys([("", ""), *((anchor, "") for anchor in anchors), *kept])
    k = torch.cat([edit_rows(model, prompt, words) for prompt, words in every])
    identity = torch.eye(c.shape[1], dtype=torch.float64, device=c.device)
    left = settings.ridge * identity + settings.strength * target.T @ c + settings.keep * k.T @ k
    right = settings.ridge * identity + settings.strength * c.T @ c + settings.keep * k.T @ k
    edit = torch.linalg.solve(right, left, left=False)  # v* = W₀ c*, so W = W₀ · left · right⁻¹ for every W₀
    for _, layer in cross_attention(model.unet):
        for projection in (layer.to_k, layer.to_v):
            weight = projection.weight
            weight.copy_((weight.double() @ edit).to(weight.dtype))
