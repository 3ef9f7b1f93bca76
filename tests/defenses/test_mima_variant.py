"""MIMA with implicit gradients, and with other combinations of the adapted models."""

import itertools

import pytest
import torch

from defenses import _combine
from harness.errors import UsageError
from tests.diffusion.reference import batches, double, targets


def test_ties_is_the_published_algorithm():
    """Trim, elect, disjoint mean, entry by entry in plain Python."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    adapted = base + torch.randn(3, 3, 4, dtype=torch.float64, generator=generator)
    differentiable = adapted.clone().requires_grad_()
    found = _combine.ties({"w": base}, {"w": differentiable}, 0.5)["w"]
    changes = (adapted - base).flatten(1).tolist()
    kept = []
    for change in changes:
        largest = sorted(range(12), key=lambda i: -abs(change[i]))[:6]
        kept.append([value if i in largest else 0.0 for i, value in enumerate(change)])
    for i, start in enumerate(base.flatten().tolist()):
        column = [change[i] for change in kept]
        chosen = [value for value in column if value * sum(column) > 0]
        (gradient,) = torch.autograd.grad(found.flatten()[i], differentiable, retain_graph=True)
        assert gradient.flatten(1)[:, i].tolist() == [(value in chosen) / max(len(chosen), 1) for value in column]
        assert float(found.detach().flatten()[i]) == pytest.approx(
            start + (sum(chosen) / len(chosen) if chosen else 0.0)
        )


def test_low_rank_is_the_closest_change_of_that_rank():
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    adapted = base + torch.randn(2, 5, 6, dtype=torch.float64, generator=generator)
    found = _combine.low_rank({"w": base}, {"w": adapted}, 2)["w"]
    for change, wanted in zip(found - base, adapted - base, strict=True):
        u, s, v = torch.linalg.svd(wanted)
        torch.testing.assert_close(change, u[:, :2] @ torch.diag(s[:2]) @ v[:2])
    torch.testing.assert_close(_combine.low_rank({"w": base}, {"w": adapted}, 5)["w"], adapted)


def test_the_defaults_are_mima(model, build, monkeypatch):
    of = targets(double(model))
    upper = model.unfreeze(list(model.weights("cross_attention").values()))
    steps = list(itertools.islice(batches(model, of, 2), 2))
    gradients = []
    for name in ("mima", "mima_variant"):
        defense = build("defense", name, batch_size=2, inner_lr=0.02)
        monkeypatch.setattr(type(defense), "batches", lambda self, given: iter(steps))
        gradients.append(torch.autograd.grad(next(defense.harmful_losses(model, of)), upper))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("combine", ["merge", pytest.param("low_rank", marks=pytest.mark.slow)])
def test_the_implicit_gradient_is_that_of_the_minimum(model, build, monkeypatch, combine):
    """Central differences of the loss after a descent that has converged, along a random direction."""
    of = targets(double(model))
    named = model.weights("keys_values")
    upper = model.unfreeze(list(named.values()))
    step = next(batches(model, of, 2))
    defense = build(
        "defense", "mima_variant", gradients="implicit", combine=combine, rank=1000, batch_size=2, ridge=1e-3,
        gamma=0.2, inner_lr=0.1, implicit_steps=25, products=25,
    )  # fmt: skip
    monkeypatch.setattr(type(defense), "batches", lambda self, given: itertools.repeat(step))
    losses = defense.harmful_losses(model, of)
    gradient = torch.autograd.grad(next(losses), upper)
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(w.shape, dtype=w.dtype, generator=generator) * w.detach().abs().mean() for w in upper]

    def moved(size):
        with torch.no_grad():
            for weight, part in zip(upper, direction, strict=True):
                weight.add_(size * part)
        value = float(next(losses))
        with torch.no_grad():
            for weight, part in zip(upper, direction, strict=True):
                weight.sub_(size * part)
        return value

    slope = (moved(1e-4) - moved(-1e-4)) / 2e-4
    ours = sum(float((part * along).sum()) for part, along in zip(gradient, direction, strict=True))
    assert ours == pytest.approx(slope, rel=1e-4)
    plain = torch.autograd.grad(model.denoising_loss(step[0].join(step)), upper)
    assert ours != pytest.approx(sum(float((p * d).sum()) for p, d in zip(plain, direction, strict=True)), rel=1e-2)


def test_a_step_of_the_implicit_preset_changes_keys_and_values(model, build):
    """The implicit gradient is that of keys and values."""
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    defense = build("defense", "mima_variant", "small_styles_implicit", steps=1, batch_size=1, prior="none")
    assert len(list(defense.immunize(model, targets(model)))) == 1
    assert model.changed(before).keys() == model.weights("keys_values").keys()


def test_other_modes_are_refused(build):
    for settings in ({"mode": "released"}, {"inner_weights": "unet"}):
        with pytest.raises(UsageError, match="mima_variant has the mode paper and adapts keys_values"):
            build("defense", "mima_variant", **settings)
