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


def test_the_edit_is_that_of_a_loop_over_rows(model: TextToImage) -> None:
    """As the authors' code: row by row, paired from the last token of each prompt's words; the empty prompt and the
    anchors are kept."""
    before = [layer.to_v.weight.detach().double().clone() for _, layer in cross_attention(model.unet)]
    pairs, kept = [], []
    for prompt, subject, anchor in EDITS:
        rows, replaced = edit_rows(model, prompt, subject), edit_rows(model, anchor)
        pairs += zip(rows, replaced, strict=False)  # both end where the shorter one ends
        kept += replaced
    kept += model.text([""])[0].double()
    kept += [row for prompt, subject in KEPT for row in edit_rows(model, prompt, subject)]

    erase(model, EDITS, KEPT, Erasure(strength=1.5, keep=0.7, ridge=0.3))

    for (_, layer), old in zip(cross_attention(model.unet), before, strict=True):
        left, right = 0.3 * old, 0.3 * torch.eye(old.shape[1], dtype=torch.float64)
        for row, replaced in pairs:
            left = left + 1.5 * torch.outer(old @ replaced, row)
            right = right + 1.5 * torch.outer(row, row)
        for row in kept:
            left = left + 0.7 * torch.outer(old @ row, row)
            right = right + 0.7 * torch.outer(row, row)
        assert torch.allclose(layer.to_v.weight.double(), left @ torch.inverse(right), atol=1e-6)
        assert not torch.allclose(layer.to_v.weight.double(), old, atol=1e-3)


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
