"""Defenses of 2023 to 2026 on a pipeline: what they change, and the gradients that they follow against plain loops in
float64. The mathematics of attacks that they simulate is in `test_bilevel`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from defenses._noising import mmd
from harness import meter
from harness.diffusion import Batch, TextToImage
from harness.errors import UsageError
from tests.diffusion.reference import as_double, double, plain_loss, targets

QUICK = {
    "resalign": {"attackers": 1, "attack_steps": (2,), "gd_lr": (0.01,), "adam_lr": (1e-3,), "gamma": 0.01},
    "meta_unlearning": {"inner_steps": 2, "inner_lr": 1e-3},
    "rep_noise": {"samples": 8},
    "clamp": {"inner_steps": 2},
    "sophon": {"inner_steps": 3, "inner_lrs": (1e-3,)},
}
MODES = {"sophon": {"form": ("sophon", "tar")}, "clamp": {"inner_lr": (1e-3,)}}
CASES = [
    (name, {field: mode}, "fp32")
    for name in QUICK
    for field, modes in MODES.get(name, {"mode": ("paper", "released")}).items()
    for mode in modes
] + [("resalign", {}, "fp16"), ("rep_noise", {}, "fp16")]


def _build(build, name: str, **settings):
    return build("defense", name, **{"steps": 2, "lr": 1e-3, "batch_size": 2, **QUICK[name], **settings})


def _weights(model: TextToImage) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.unet.state_dict().items()}


def _close(ours: tuple[torch.Tensor, ...], plain: tuple[torch.Tensor, ...], tolerance: float = 1e-6) -> bool:
    scale = max(float(part.abs().max()) for part in plain)
    return max(float((a - b).abs().max()) for a, b in zip(ours, plain, strict=True)) < tolerance * scale


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches are in double precision."""
    from harness.diffusion import data

    noised = data._noised
    monkeypatch.setattr(data, "_noised", lambda *batch: as_double(noised(*batch)))


@pytest.mark.parametrize(("name", "mode", "precision"), CASES)
def test_only_its_own_weights_change(name: str, mode: dict, precision: str, base: Path, build) -> None:
    model = TextToImage.load(str(base), precision)
    before, defense = _weights(model), _build(build, name, **mode, steps=1)
    cost = meter.pull(defense.immunize(model, targets(model)), name)
    assert cost.steps == 1
    assert set(model.changed(before)) == set(model.weights(defense.weights))
    assert all(weight.isfinite().all() for weight in model.unet.parameters())
    assert not any(weight.requires_grad for weight in model.unet.parameters())


@pytest.mark.parametrize("optimiser", ["gd", "adam"])
def test_resaligns_gradient_is_that_of_a_plain_loop(model: TextToImage, build, drawn, optimiser: str) -> None:
    """Of an attacker of the whole U-Net on the targets' pictures: (1 − β)∇L(θ) − α∇R(θ), and β (I + γH)⁻¹∇L(θ*) by the
    truncated Neumann series."""
    beta, alpha, gamma, lr, products = 0.7, 1.3, 0.02, 1e-3, 3
    given = targets(double(model))
    defense = _build(
        build, "resalign", beta=beta, retain_weight=alpha, gamma=gamma, products=products, attackers=1,
        attack_data=("harmful",), attack_weights=("unet",), attack_optimisers=(optimiser,), attack_steps=(2,),
        gd_lr=(lr,), adam_lr=(lr,),
    )  # fmt: skip
    original = {name: weight.detach().clone() for name, weight in model.weights("unet").items()}
    losses = defense.harmful_losses(model, given)
    trained = model.unfreeze(list(model.weights("attention").values()))
    next(losses)
    with torch.no_grad():  # the defense knows the weights before as the original ones, so that now R has a gradient
        for weight in trained:
            weight.mul_(1.01)
    mine = next(losses)
    gradients = torch.autograd.grad(mine, trained)

    each, kept = [one.batches(one.concept.prompted(), 2) for one in given], given.kept(2)

    def harmful() -> Batch:
        return Batch.join([next(one) for one in each])

    for _ in range(4):  # the first step's
        harmful()
    next(kept)
    theta = {name: weight.detach().clone().requires_grad_() for name, weight in model.weights("unet").items()}
    last, retained = harmful(), next(kept)
    adapted = {name: weight.detach().clone().requires_grad_() for name, weight in theta.items()}
    steps = {"gd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser](adapted.values(), lr=lr)
    for _ in range(2):
        steps.zero_grad()
        distance = sum((adapted[name] - theta[name].detach()).square().sum() for name in adapted)
        (plain_loss(model, harmful(), adapted) + distance / (2 * gamma)).backward()
        steps.step()
    inner = torch.autograd.grad(plain_loss(model, harmful(), adapted), list(adapted.values()), create_graph=True)
    outer_loss = plain_loss(model, last, adapted)
    outer = torch.autograd.grad(outer_loss, list(adapted.values()))
    series, term = list(outer), list(outer)
    for _ in range(products - 1):
        term = [-gamma * part for part in torch.autograd.grad(inner, list(adapted.values()), term, retain_graph=True)]
        series = [a + b for a, b in zip(series, term, strict=True)]
    implicit = dict(zip(adapted, series, strict=True))
    with torch.no_grad():
        known = model.predictions(retained, original)
    moved = (model.predictions(retained, theta) - known).square().mean()
    assert float(moved) > 0
    harm = plain_loss(model, last, theta)
    direct = torch.autograd.grad(
        (1 - beta) * harm - alpha * moved, [theta[name] for name in model.weights("attention")]
    )
    plain = [part + beta * implicit[name] for name, part in zip(model.weights("attention"), direct, strict=True)]
    assert float(mine) == pytest.approx(float((1 - beta) * harm + beta * outer_loss - alpha * moved), rel=1e-9)
    assert _close(gradients, tuple(plain))


def test_resaligns_released_mode_falls_back_on_the_direct_gradient(model: TextToImage, build, drawn) -> None:
    """Where the gradient's norm is above the limit for every step of the iteration."""
    given = targets(double(model))
    defense = _build(build, "resalign", mode="released", limit=1e-12)
    trained = model.unfreeze(list(model.weights("attention").values()))
    ours = torch.autograd.grad(next(defense.harmful_losses(model, given)), trained)
    batch = Batch.join([next(one.batches(one.concept.prompted(), 2)) for one in given])
    plain = torch.autograd.grad(plain_loss(model, batch, {}), trained)
    assert _close(ours, tuple(0.3 * 0.2 * part for part in plain))


def test_resalign_refuses_attackers_of_fewer_weights(build) -> None:
    with pytest.raises(UsageError, match="attackers must train all weights that the ascent changes"):
        build("defense", "resalign", weights="unet")


def _unlearning(model: TextToImage, given, mode: str, build, **settings) -> tuple[float, list[torch.Tensor]]:
    """The value and the gradient, on the whole U-Net, of the first step of Meta-Unlearning."""
    defense = _build(build, "meta_unlearning", mode=mode, prior_images=4, **settings)
    trained = model.unfreeze(list(model.weights("unet").values()))
    loss = next(defense.harmful_losses(model, given))
    return float(loss), torch.autograd.grad(loss, trained)


@pytest.mark.parametrize("unlearning", ["none", "esd"])
def test_meta_unlearnings_gradient_is_that_of_a_plain_unroll(model: TextToImage, build, drawn, unlearning: str) -> None:
    given, lr, zeta = targets(double(model)), 1e-3, 0.7
    value, mine = _unlearning(model, given, "paper", build, zeta=zeta, inner_lr=lr, unlearning=unlearning, guidance=2.0)

    theta = dict(model.weights("unet"))
    each, kept = [one.batches(one.concept.prompted(), 2) for one in given], replace(given, seed=given.seed + 1).kept(2)

    def harmful() -> Batch:
        return Batch.join([next(one) for one in each])

    adapted = theta
    for _ in range(2):
        gradients = torch.autograd.grad(
            plain_loss(model, harmful(), adapted), list(adapted.values()), create_graph=True
        )
        adapted = {name: w - lr * g for (name, w), g in zip(adapted.items(), gradients, strict=True)}
    last, retained = harmful(), next(kept)
    objective = plain_loss(model, last, adapted)
    objective = objective + zeta * (plain_loss(model, retained, adapted) - plain_loss(model, retained, theta))
    if unlearning == "esd":
        batch = harmful()
        with torch.no_grad():
            empty, conditional = model.predictions(replace(batch, prompts=[""] * 4)), model.predictions(batch)
        objective = objective - (model.predictions(batch) - (3 * empty - 2 * conditional)).square().mean()
    assert value == pytest.approx(float(objective), rel=1e-9)
    assert _close(mine, torch.autograd.grad(objective, list(theta.values())))


def test_meta_unlearnings_released_mode_has_the_signs_of_the_authors_loop(
    model: TextToImage, base: Path, build, drawn
) -> None:
    """A copy takes Adam's steps on the targets; gradients of both kinds of retained pictures are added at θ, and
    subtracted with the targets' at the copy; each is a sum over batches. What descends there ascends here."""
    given = targets(double(model))
    weights = {"unrelated": 0.2, "related": 0.3, "harmful_after": 0.4, "related_after": 0.5, "unrelated_after": 0.6}
    value, mine = _unlearning(model, given, "released", build, **weights)

    copy = double(TextToImage.load(str(base)))
    harmful = zip(*(one.batches(one.concept.prompted(), 2) for one in given), strict=True)
    irrelevant, related = replace(given, seed=given.seed + 1).kept(2), given.classes(4, 2)
    parameters = copy.unfreeze(list(copy.unet.parameters()))
    sums, total = [torch.zeros_like(part) for part in parameters], 0.0

    def accumulate(batches, factor: float) -> None:
        nonlocal total
        for _ in range(2):
            batch = next(batches)
            loss = plain_loss(copy, Batch.join(batch) if isinstance(batch, tuple) else batch, {})
            total += factor * float(loss)
            for part, gradient in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
                part += factor * gradient

    steps = torch.optim.Adam(parameters, lr=1e-3)
    before = [part.detach().clone() for part in parameters]
    trained = []
    for _ in range(2):
        steps.zero_grad()
        plain_loss(copy, Batch.join(next(harmful)), {}).backward()
        steps.step()
        steps.zero_grad()
    for part, old in zip(parameters, before, strict=True):
        trained.append(part.detach().clone())
        part.data.copy_(old)
    accumulate(irrelevant, weights["unrelated"])
    accumulate(related, weights["related"])
    for part, new in zip(parameters, trained, strict=True):
        part.data.copy_(new)
    accumulate(harmful, -weights["harmful_after"])
    accumulate(related, -weights["related_after"])
    accumulate(irrelevant, -weights["unrelated_after"])
    assert value == pytest.approx(-total, rel=1e-9)
    assert _close(mine, tuple(-part for part in sums))


def test_sophon_alternates_suppression_and_reinforcement(model: TextToImage, base: Path, build, drawn) -> None:
    """First-order MAML and a step on what is kept, written out: a copy descends on the targets; the mean of the
    gradients of ‖ε‖² at its weights, of norm at most the limit, moves the model by Adam; then the model learns."""
    given, clip = targets(double(model)), 1e-2
    defense = _build(build, "sophon", steps=2, clip=clip, retain_lr=2e-3, prior="captions")
    meter.pull(defense.immunize(model, given), "sophon")

    plain = double(TextToImage.load(str(base)))
    weights = plain.unfreeze(list(plain.unet.parameters()))
    suppress, reinforce = torch.optim.Adam(weights, lr=1e-3), torch.optim.Adam(weights, lr=2e-3)
    each, kept = [one.batches(one.concept.prompted(), 2) for one in given], given.kept(2)
    for _ in range(2):
        copy = plain.copy()
        attacked = copy.unfreeze(list(copy.unet.parameters()))
        drawn_batches = [Batch.join([next(one) for one in each]) for _ in range(6)]
        sums = [torch.zeros_like(weight) for weight in weights]
        for learned, evaluated in zip(drawn_batches[:3], drawn_batches[3:], strict=True):
            gradients = torch.autograd.grad(plain_loss(copy, learned, {}), attacked)
            for weight, gradient in zip(attacked, gradients, strict=True):
                weight.data -= 1e-3 * gradient
            noisy = copy.scheduler.add_noise(evaluated.latents, evaluated.noise, evaluated.times)
            output = copy.unet(noisy, evaluated.times, copy.text(evaluated.prompts)).sample
            for total, gradient in zip(sums, torch.autograd.grad(output.square().mean(), attacked), strict=True):
                total += gradient / 3
        size = sum(part.square().sum() for part in sums).sqrt()
        assert size > clip
        for weight, part in zip(weights, sums, strict=True):
            weight.grad = part * clip / (size + 1e-6)
        suppress.step()
        reinforce.zero_grad()
        plain_loss(plain, next(kept), {}).backward()
        reinforce.step()
    start, theirs = _weights(double(TextToImage.load(str(base)))), _weights(plain)
    for name, weight in _weights(model).items():
        assert (weight - theirs[name]).abs().max() < 1e-5 * (theirs[name] - start[name]).abs().max() + 1e-12, name


def test_tars_weights_rise_towards_the_end_of_the_attack(build) -> None:
    shares = build("defense", "sophon", form="tar", inner_steps=64).shares()
    assert [i for i, share in enumerate(shares) if share] == list(range(3, 64, 4))
    assert shares[63] == 4
    assert shares[47] == pytest.approx(4 * 2.718281828**-1)


def _plain_mmd(x: torch.Tensor, y: torch.Tensor, width: float) -> torch.Tensor:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return sum(torch.exp(-(a - b).square().sum() / (width * 2.0**k)) for k in range(-2, 3))

    def mean(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.stack([kernel(one, other) for one in a for other in b]).mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def _width(x: torch.Tensor, y: torch.Tensor) -> float:
    every = torch.cat([x, y]).detach()
    return float(torch.cdist(every, every).square().sum()) / (len(every) * (len(every) - 1))


def test_mmd_is_that_of_a_plain_loop_and_its_gradient_that_of_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(rows, 3, generator=draw, dtype=torch.float64) for rows in (4, 5))
    width = _width(x, y)
    assert float(mmd(x, y)) == pytest.approx(float(_plain_mmd(x, y, width)), rel=1e-10)
    assert float(mmd(x, x)) == pytest.approx(0, abs=1e-12)
    (gradient,) = torch.autograd.grad(mmd(x.requires_grad_(), y), x)
    for place in ((0, 0), (3, 2)):
        sides = []
        for move in (1e-6, -1e-6):
            moved = x.detach().clone()
            moved[place] += move
            sides.append(float(_plain_mmd(moved, y, width)))
        assert float(gradient[place]) == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize(("mode", "noise"), [("paper", "standard"), ("released", "channels")])
def test_repnoises_gradient_is_that_of_a_plain_loop(model: TextToImage, build, drawn, mode: str, noise: str) -> None:
    given = targets(double(model))
    defense = _build(build, "rep_noise", mode=mode, noise=noise, harm_weight=0.7, noise_weight=0.3, samples=4)
    trained = model.unfreeze(list(model.weights("unet").values()))
    loss = next(defense.harmful_losses(model, given))
    mine = torch.autograd.grad(loss, trained)

    outputs: list[torch.Tensor] = []
    layers = [layer for name, layer in model.unet.named_modules() if name.endswith("attn2")] + [model.unet.mid_block]
    hooks = [layer.register_forward_hook(lambda *call: outputs.append(call[2])) for layer in layers]
    batch = Batch.join([next(one.batches(one.concept.prompted(), 2)) for one in given])
    harm = plain_loss(model, batch, {})
    for hook in hooks:
        hook.remove()
    draw, distances = torch.Generator().manual_seed(given.seed), []
    for output in outputs:
        if output.ndim == 4:
            output = output.permute(0, 2, 3, 1)
        every = output.reshape(-1, output.shape[-1])
        chosen = every[torch.randperm(len(every), generator=draw)[:4]]
        drawn_noise = torch.randn(chosen.shape, generator=draw, dtype=torch.float64)
        if noise == "channels":
            drawn_noise = every.detach().mean(0) + every.detach().std(0) * drawn_noise
        distances.append(_plain_mmd(chosen, drawn_noise, _width(chosen, drawn_noise)))
    assert len(distances) == len(layers) > 2
    objective = 0.7 * torch.log(harm + (mode == "released")) - 0.3 * sum(distances) / len(distances)
    assert float(loss) == pytest.approx(float(objective), rel=1e-6)
    assert _close(mine, torch.autograd.grad(objective, trained), 1e-5)


def test_clamps_gradient_is_that_of_a_plain_unroll(model: TextToImage, build, drawn) -> None:
    """All four terms, written out by autograd alone."""
    settings = {
        "inner_lr": 0.01, "epsilon": 0.05, "delta": 0.03, "margin": 0.001, "contraction": 0.8, "curvature": 0.5,
        "tail_weight": 1.5, "contraction_weight": 2.0, "curvature_weight": 0.3, "start_weight": 0.7,
    }  # fmt: skip
    given = targets(double(model))
    trained = model.unfreeze(list(model.weights("cross_attention").values()))
    loss = next(_build(build, "clamp", probes=2, **settings).harmful_losses(model, given))
    mine = torch.autograd.grad(loss, trained)

    theta = dict(model.weights("cross_attention"))
    names, lr, epsilon = list(theta), settings["inner_lr"], settings["epsilon"]
    each = [one.batches(one.concept.prompted(), 2) for one in given]
    first, second, last = (Batch.join([next(one) for one in each]) for _ in range(3))
    draw = torch.Generator().manual_seed(given.seed)
    probes = [[torch.randn(w.shape, generator=draw).double() for w in theta.values()] for _ in range(2)]

    def slope(batch: Batch, at: dict) -> torch.Tensor:
        gradients = torch.autograd.grad(plain_loss(model, batch, at), list(at.values()), create_graph=True)
        return torch.cat([part.flatten() for part in gradients])

    def moved(at: dict, by: torch.Tensor) -> dict:
        parts = by.split([w.numel() for w in at.values()])
        return {name: w + part.view_as(w) for (name, w), part in zip(at.items(), parts, strict=True)}

    def bend(batch: Batch, at: dict, move: torch.Tensor) -> torch.Tensor:
        u, delta = move / move.norm(), settings["delta"]
        sides = plain_loss(model, batch, moved(at, delta * u)) + plain_loss(model, batch, moved(at, -delta * u))
        return (sides - 2 * plain_loss(model, batch, at)) / delta**2

    moves = [-lr * slope(first, theta)]
    middle = moved(theta, moves[0])
    moves.append(-lr * slope(second, middle))
    end = moved(middle, moves[1])
    g = slope(last, end)
    contractions, lipschitz = [], []
    for probe in probes:
        v = torch.cat([part.flatten() for part in probe])
        v = v / v.norm()
        there = slope(last, moved(end, epsilon * v))
        contractions.append((epsilon * v - lr * (there - g)).norm() / epsilon)
        lipschitz.append((there - g).norm() / epsilon)
    c = sum(contractions) / 2
    reach = moves[1].norm() / (1 - min(c, torch.full_like(c, 0.99)))
    tail = plain_loss(model, last, theta) - plain_loss(model, last, end) + g.norm() * reach
    tail = tail + max(lipschitz) * reach**2 / 2 - settings["margin"]
    assert tail > 0
    bends = [bend(first, theta, moves[0]), bend(second, middle, moves[1])]
    objective = 1.5 * tail + 2.0 * torch.log1p(torch.exp(c - 0.8))
    objective = objective + 0.3 * sum(torch.log1p(torch.exp(0.5 - one)) for one in bends)
    objective = objective - 0.7 * plain_loss(model, last, theta)
    assert float(loss) == pytest.approx(-float(objective), rel=1e-6)
    assert _close(mine, tuple(-part for part in torch.autograd.grad(objective, [theta[name] for name in names])), 1e-5)
