"""Gradient checkpointing changes no gradient."""

import pytest
import torch

from harness.diffusion import Batch, TextToImage, checkpointing
from tests.diffusion.reference import batches, double, targets

DEFENSES = {
    "joint": {},
    "mima": {},
    "mima_steps": {"inner_steps": 2},
    "mima_unet": {"inner_weights": "unet"},
    "mima_first_order": {"first_order": True},
    "compose": {},
    "ascent": {},
}


@pytest.mark.parametrize("case", DEFENSES)
def test_the_defenses_gradients(case: str, model: TextToImage, build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through unrolled steps, whose weights replace the U-Net's own in a call that is over when blocks are computed
    again."""
    of = targets(double(model))
    name = case.partition("_")[0]
    inner = {} if name == "ascent" else {"inner_lr": 0.05}
    defense = build("defense", name, batch_size=2, **inner, **DEFENSES[case])
    weights = model.unfreeze(list(model.weights("attention").values()))
    drawn = batches(model, of, 2)
    steps = [next(drawn) for _ in range(3)]
    calls: list[int] = []
    monkeypatch.setattr(checkpointing, "_restored", _counted(checkpointing._restored, calls))
    found = []
    for on in (False, True):
        fed = iter(steps)
        monkeypatch.setattr(type(defense), "batches", lambda self, given, fed=fed: fed)
        if on:
            model.checkpoint()
        loss = next(defense.harmful_losses(model, of))
        found.append(torch.autograd.grad(loss, weights))
    assert calls
    scale = max(float(gradient.abs().max()) for gradient in found[0])
    assert max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) < 1e-9 * scale


def _counted(context, calls: list[int]):
    def counted(*settings):
        calls.append(1)
        return context(*settings)

    return counted


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_attacks_gradients(base, precision: str) -> None:
    """Of the U-Net's own weights, also with scaled gradients."""
    found = []
    for on in (False, True):
        model = TextToImage.load(str(base), precision)
        if on:
            model.checkpoint()
        weights = model.unfreeze(list(model.unet.parameters()))
        draw = torch.Generator().manual_seed(1)
        latents, noise = (torch.randn(2, 4, 8, 8, generator=draw) for _ in range(2))
        batch = Batch(latents, ["an artwork by marvo"] * 2, noise, torch.tensor([5, 900]))
        found.append(torch.autograd.grad(model.denoising_loss(batch), weights))
    plain, recomputed = (torch.cat([gradient.flatten() for gradient in one]) for one in found)
    assert float((recomputed - plain).norm() / plain.norm()) < {"fp32": 1e-6, "fp16": 1e-3}[precision]
