"""Gradients through unrolled steps against a plain unroll: no grouping, no factored merge, no cache."""

from collections.abc import Iterator

import pytest
import torch

from defenses._unroll import descend, losses_apart
from harness.diffusion import TextToImage
from harness.meter import pull
from tests.diffusion.reference import batches, double, plain_harm, plain_loss, targets


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "paper", "inner_weights": "keys_values"},
        {"mode": "paper-current", "inner_weights": "keys_values"},
        {"mode": "paper", "inner_weights": "keys_values", "normalised": True},
        {"mode": "paper", "inner_weights": "unet"},
    ],
    ids=["paper", "paper-current", "normalised", "unet"],
)
def test_mimas_gradient_is_that_of_a_plain_unroll(
    model: TextToImage, build, monkeypatch: pytest.MonkeyPatch, inner_steps: int, settings: dict
) -> None:
    settings = {"inner_lr": 0.02, "ridge": 1e-3, **settings}
    of = targets(double(model))
    defense = build("defense", "mima", inner_steps=inner_steps, batch_size=2, **settings)
    upper = model.unfreeze(list(model.weights("cross_attention").values()))
    drawn = batches(model, of, 2)
    steps = [next(drawn) for _ in range(inner_steps)]
    last = next(drawn)

    fed = iter([*steps, last])  # the same draws, in double precision
    monkeypatch.setattr(type(defense), "batches", lambda self, given: fed)
    ours = next(defense.harmful_losses(model, of))
    mine = torch.autograd.grad(ours, upper)
    model.unfreeze(list(model.unet.parameters()))
    theirs = plain_harm(model, of, steps, last, settings)
    plain = torch.autograd.grad(theirs, upper)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-9)
    scale = max(float(gradient.abs().max()) for gradient in plain)
    assert max(float((a - b).abs().max()) for a, b in zip(mine, plain, strict=True)) < 1e-6 * scale


def test_jts_gradient_is_that_of_a_plain_unroll(model: TextToImage, build, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of the whole U-Net on the concepts thrown together."""
    of = targets(double(model))
    defense = build("defense", "joint", batch_size=2, inner_lr=0.02)
    upper = model.unfreeze(list(model.weights("attention").values()))
    drawn = batches(model, of, 2)
    first, last = next(drawn), next(drawn)
    fed = iter([first, last])
    monkeypatch.setattr(type(defense), "batches", lambda self, given: fed)
    mine = torch.autograd.grad(next(defense.harmful_losses(model, of)), upper)

    model.unfreeze(list(model.unet.parameters()))
    weights = dict(model.weights("unet"))
    pooled = sum(plain_loss(model, batch, weights) for batch in first) / len(first)
    gradients = torch.autograd.grad(pooled, list(weights.values()), create_graph=True)
    stepped = {name: w - 0.02 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    harm = sum(plain_loss(model, batch, stepped) for batch in last) / len(last)
    plain = torch.autograd.grad(harm, upper)
    scale = max(float(gradient.abs().max()) for gradient in plain)
    assert max(float((a - b).abs().max()) for a, b in zip(mine, plain, strict=True)) < 1e-6 * scale


@pytest.mark.parametrize("which", ["keys_values", "unet"])
def test_losses_apart_are_each_concepts_own(model: TextToImage, which) -> None:
    of = targets(double(model), ("marvo", "telune", "obrick"))
    step = next(batches(model, of, 2))
    named = model.weights(which)
    weights = {name: torch.stack([weight.detach() * (1 + 0.1 * n) for n in range(3)]) for name, weight in named.items()}
    found = losses_apart(model, step, weights, twice=True)
    for n, batch in enumerate(step):
        own = {name: weight[n] for name, weight in weights.items()}
        assert float(found[n]) == pytest.approx(float(plain_loss(model, batch, own)), rel=1e-9)
    assert {type(layer.to_k) for name, layer in model.unet.named_modules() if name.endswith("attn2")} == {
        torch.nn.Linear
    }


def test_first_order_takes_the_descent_for_a_shift(model: TextToImage) -> None:
    """The same values, and a gradient that passes through unchanged."""
    of = targets(double(model))
    step = [next(batches(model, of, 2))]
    weights = model.weights("keys_values")
    model.unfreeze(list(weights.values()))
    exact = descend(model, weights, step, lr=0.1)
    first = descend(model, weights, step, lr=0.1, first_order=True)
    for name, weight in weights.items():
        assert torch.allclose(first[name], exact[name])
        (through,) = torch.autograd.grad(first[name].sum(), weight, retain_graph=True)
        assert torch.equal(through, torch.full_like(weight, 2.0))  # one of each concept


def test_a_normalised_step_has_its_length(model: TextToImage) -> None:
    of = targets(double(model))
    weights = model.weights("keys_values")
    model.unfreeze(list(weights.values()))
    moved = descend(model, weights, [next(batches(model, of, 2))], lr=0.01, normalised=True, first_order=True)
    before = sum(float(weight.square().sum()) for weight in weights.values()) ** 0.5
    for n in range(2):
        length = sum(float((moved[name][n] - weight).square().sum()) for name, weight in weights.items()) ** 0.5
        assert length == pytest.approx(0.01 * before, rel=1e-6)


def test_descent_lowers_each_concepts_loss(model: TextToImage) -> None:
    of = targets(double(model))
    step = next(batches(model, of, 4))
    weights = model.weights("keys_values")
    model.unfreeze(list(weights.values()))
    before = losses_apart(model, step, {n: w.expand(2, *w.shape) for n, w in weights.items()}, twice=False)
    after = losses_apart(model, step, descend(model, weights, [step] * 5, lr=0.05), twice=False)
    assert (after < before).all()


SAVING = {
    "paper": ("mima", {}),
    "paper-current, three steps": ("mima", {"mode": "paper-current", "inner_steps": 3}),
    "normalised": ("mima", {"normalised": True, "inner_steps": 2}),
    "unet": ("mima", {"inner_weights": "unet"}),
    "CP": ("compose", {}),
    "JT": ("joint", {}),
    "JT, two steps": ("joint", {"inner_steps": 2, "normalised": True}),
}


@pytest.mark.parametrize("case", SAVING)
def test_one_concept_after_the_other_gives_the_same_gradient_and_cost(
    case: str, model: TextToImage, build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checkpointing, for two concepts with two pictures each."""
    name, settings = SAVING[case]
    of = targets(double(model))
    defense = build("defense", name, batch_size=2, inner_lr=0.05, **settings)
    weights = model.unfreeze(list(model.weights("attention").values()))
    drawn = batches(model, of, 2)
    steps = [next(drawn) for _ in range(4)]
    spent, found = [], []
    for saving in (False, True):
        if saving:
            model.checkpoint()
        monkeypatch.setattr(type(defense), "batches", lambda self, given: iter(steps))

        def ascend() -> Iterator[torch.Tensor]:
            loss = next(defense.harmful_losses(model, of))
            found.append(torch.autograd.grad(loss, weights))
            yield loss

        spent.append(pull(ascend(), "it"))
    scale = max(float(gradient.abs().max()) for gradient in found[0])
    assert max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) < 1e-9 * scale
    assert (spent[0].gradients, spent[0].samples) == (spent[1].gradients, spent[1].samples)
