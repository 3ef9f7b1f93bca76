"""Unified concept editing against its objective."""

import pytest
import torch

from harness.diffusion import TextToImage, cross_attention
from harness.diffusion.erase import erase
from harness.diffusion.protocol import Erasure
from harness.diffusion.text import edit_rows, word_rows
from harness.errors import RunError

EDITS = [("an artwork by marvo", "marvo", "an artwork"), ("a bag by marvo", "marvo", "an artwork of a bag")]
KEPT = [("an artwork by telune", "telune"), ("a photo of a boot", "boot")]


def test_the_edit_is_a_stationary_point_of_the_objective(model: TextToImage) -> None:
    """UCE minimises e Σ‖W c − W₀ c*‖² + p Σ‖W k − W₀ k‖² + λ‖W − W₀‖²: at W its gradient is zero."""
    settings = Erasure(strength=1.5, keep=0.7, ridge=0.3)
    layers = [layer.to_v for _, layer in cross_attention(model.unet)]
    before = [layer.weight.detach().double().clone() for layer in layers]
    c, anchors = [], []
    for prompt, subject, anchor in EDITS:
        rows, replaced = edit_rows(model, prompt, subject), edit_rows(model, anchor)
        shared = min(len(rows), len(replaced))
        c.append(rows[:shared])
        anchors.append(replaced[:shared])
    k = torch.cat([edit_rows(model, *of) for of in KEPT])
    c, anchors = torch.cat(c), torch.cat(anchors)

    erase(model, EDITS, KEPT, settings)

    for layer, old in zip(layers, before, strict=True):
        w = layer.weight.detach().double().clone().requires_grad_()
        objective = 1.5 * (c @ w.T - anchors @ old.T).square().sum()
        objective = objective + 0.7 * (k @ w.T - k @ old.T).square().sum() + 0.3 * (w - old).square().sum()
        (gradient,) = torch.autograd.grad(objective, w)
        assert gradient.abs().max() < 1e-4 * old.abs().max()  # the weights are stored in float32
        assert not torch.allclose(layer.weight.double(), old)


def test_only_cross_attention_keys_and_values_change(model: TextToImage) -> None:
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    erase(model, EDITS, KEPT, Erasure())
    changed = set(model.changed(before))
    assert changed == {
        f"{name}.{side}.weight" for name, _ in cross_attention(model.unet) for side in ("to_k", "to_v")
    }  # fmt: skip


def test_a_heavy_ridge_changes_nothing(model: TextToImage) -> None:
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    erase(model, EDITS, KEPT, Erasure(ridge=1e12))
    assert all(torch.allclose(value, before[name], atol=1e-6) for name, value in model.unet.state_dict().items())


def test_an_edit_begins_at_the_words_last_token_and_a_merge_at_their_first(model: TextToImage) -> None:
    prompt = "a photo of a sks bag"  # start a photo of a sks bag end: "sks bag" ends at 6, "photo" at 2
    whole = model.text([prompt])[0].double()
    assert torch.equal(edit_rows(model, prompt, "sks bag"), whole[6:])
    assert torch.equal(edit_rows(model, prompt, "photo"), whole[2:])
    assert torch.equal(edit_rows(model, prompt), whole[6:])
    assert torch.equal(edit_rows(model, ""), model.text([""])[0].double())
    assert torch.equal(word_rows(model, prompt, "sks bag"), whole[5:8])
    assert torch.equal(word_rows(model, prompt, "photo"), whole[2:8])


@pytest.mark.parametrize("rows", [edit_rows, word_rows])
def test_a_prompt_without_its_subject_is_refused(rows, model: TextToImage) -> None:
    with pytest.raises(RunError, match="'an artwork by marvo' does not contain the words 'telune'"):
        rows(model, "an artwork by marvo", "telune")
