"""Defenses of deep networks: what they keep exactly, and what they move."""

import itertools
from collections import defaultdict
from copy import deepcopy

import numpy as np
import pytest
import torch

from defenses._noising import distance_from_noise
from defenses._simulated_deep import divergence_from_uniform, inverse_cross_entropy
from defenses._tail import adapted_head
from defenses.clamp_deep import ClampDeep
from defenses.condition_number_deep import ConditionNumberDeep
from defenses.imma_deep import ImmaDeep
from defenses.opt_kappa_deep import OptKappaDeep
from defenses.random_tail import RandomTail
from defenses.rank_one_deep import RankOneDeep
from defenses.rep_noise_deep import RepNoiseDeep
from defenses.sophon_deep import SophonDeep
from defenses.spectral_deep import SpectralDeep
from defenses.task_only import TaskOnly
from defenses.whitening_deep import WhiteningDeep
from harness.errors import RunError

TRAINED = {
    "condition_number": ConditionNumberDeep(steps=3),
    "r_ill": ConditionNumberDeep(steps=3, weight_benign=0),
    "r_well": ConditionNumberDeep(steps=3, weight_harmful=0),
    "task_only": TaskOnly(steps=3),
    "opt_kappa": OptKappaDeep(steps=3),
    "opt_kappa_range": OptKappaDeep(steps=3, policy="range"),
    "imma": ImmaDeep(steps=3),
    "imma_unrolled": ImmaDeep(steps=3, inner_steps=2),
    "rep_noise": RepNoiseDeep(steps=3),
    "sophon": SophonDeep(steps=3, inner_steps=2),
    "clamp": ClampDeep(steps=3, inner_steps=2),
}


def run(defense, model, targets):
    return [float(loss) for loss in defense.immunize(model, targets)]


def outputs(model, x):
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize(
    "control", [RankOneDeep(), SpectralDeep(count=2), WhiteningDeep()], ids=["rank one", "spectral", "whitening"]
)
def test_linear_controls_leave_benign_outputs_and_change_features(control, model, targets):
    x = targets.benign.x
    before, features = outputs(model, x), model.features(x).detach()
    run(control, model, targets)
    torch.testing.assert_close(outputs(model, x), before, atol=1e-4, rtol=0)
    assert (model.features(x) - features).norm() > 0.1 * features.norm()


def test_the_whitened_features_have_the_covariance_of_the_formula(model, targets):
    """f·T with T = (K_P + ρσ₁I)^(-½): the eigenvalues of the new Hessian are λ/(λ + ρσ₁)."""
    old = np.linalg.eigvalsh(hessian(model, targets.benign.x))
    run(WhiteningDeep(rho=1e-2), model, targets)
    new = np.linalg.eigvalsh(hessian(model, targets.benign.x))
    np.testing.assert_allclose(np.sort(new), np.sort(old / (old + 1e-2 * old.max())), atol=1e-5)


def hessian(model, x):
    features = model.features(x).detach().double().numpy()
    return features.T @ features


@pytest.mark.parametrize("name", TRAINED)
def test_frozen_statistics_stay_while_weights_move(name, model, targets):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run(TRAINED[name], model, targets)
    after = model.state_dict()
    for key, value in model.named_buffers():
        assert torch.equal(value, before[key]), key
    assert not torch.equal(after["tail.0.weight"], before["tail.0.weight"])


def test_released_statistics_are_of_the_batches(model, targets):
    before = {key: value.clone() for key, value in model.named_buffers()}
    run(TaskOnly(steps=3, statistics="released"), model, targets)
    assert not torch.equal(dict(model.named_buffers())["tail.1.running_mean"], before["tail.1.running_mean"])
    assert not model.training


@pytest.mark.parametrize("name", ["condition_number", "opt_kappa", "imma"])
def test_a_balanced_weight_gives_the_gradient_its_share(name, model, targets):
    """With weight c the weighted regulariser's gradient is c times as long as the task's, at the base model, in the
    mean over eight batches."""
    defense, base = TRAINED[name], deepcopy(model)
    run(defense, model, targets)
    draw = targets.generator()
    benign, harmful = (task.batches(defense.batch_size, draw) for task in (targets.benign, targets.harmful))
    tasks, values, weights = [], defaultdict(list), {}
    for kept, prevented in itertools.islice(zip(benign, harmful, strict=False), 8):
        f, g = base.features(kept.x), base.features(prevented.x)
        tasks.append(norm(torch.nn.functional.cross_entropy(base.head(f), kept.y, label_smoothing=0.1), base))
        for label, weight, value in defense.regularisers(base, f, g, prevented.y):
            values[label].append(norm(value, base))
            weights[label] = weight
    assert targets.notes.keys() == {f"weight of {label}" for label in values}
    for label, norms in values.items():
        factor = targets.notes[f"weight of {label}"]
        assert factor * np.mean(norms) == pytest.approx(weights[label] * np.mean(tasks), rel=1e-4)


def norm(value, model):
    gradients = torch.autograd.grad(value, list(model.tail.parameters()), retain_graph=True)
    return float(torch.cat([part.flatten() for part in gradients]).norm())


def test_regularisers_are_those_of_the_dense_hessian(model, targets):
    """R_well and R_ill from the Gram matrix of a batch, and from the eigenvalues of FᵀF in numpy."""
    kept, prevented = (model.features(task.x[:64]) for task in (targets.benign, targets.harmful))
    terms = ConditionNumberDeep().regularisers(model, kept, prevented, targets.harmful.y[:64])
    values = {name: float(value.detach()) for name, _, value in terms}
    dense = [np.linalg.eigvalsh(f.detach().double().numpy().T @ f.detach().double().numpy()) for f in (kept, prevented)]
    well, ill = (values[name] for name in ("R_well", "R_ill"))
    assert well == pytest.approx(0.5 * dense[0][-1] ** 2 - (dense[0] ** 2).sum() / (2 * 12), rel=1e-6)
    assert ill == pytest.approx(1 / ((dense[1] ** 2).sum() / (2 * 12) - 0.5 * dense[1][0] ** 2), rel=1e-6)


def test_the_presets_of_one_regulariser_leave_the_other_out(model, targets, build):
    for preset, name in (("r_ill", "R_ill"), ("r_well", "R_well")):
        targets.notes.clear()
        run(build("defense", "condition_number_deep", preset, steps=1), model, targets)
        assert list(targets.notes) == [f"weight of {name}"]


def test_the_unrolled_head_of_imma_is_that_of_gradient_descent(model, targets):
    """Steps of torch's SGD with 1/L, L = σ₁²/(2·rows) of the cross-entropy, from zero."""
    x, y = model.features(targets.harmful.x[:64]).detach(), targets.harmful.y[:64]
    head = torch.zeros(x.shape[1], 3, requires_grad=True)
    optimiser = torch.optim.SGD([head], lr=2 * 64 / float(torch.linalg.matrix_norm(x, 2)) ** 2)
    for _ in range(4):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(x @ head, y).backward()
        optimiser.step()
    torch.testing.assert_close(adapted_head(x, y, 4), head.detach())


def test_opt_kappa_lowers_its_own_objective(model, targets):
    losses = run(OptKappaDeep(steps=40, weight=3.0), model, targets)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_random_tail_is_of_its_seed_and_keeps_the_random_state(model, targets):
    state = torch.get_rng_state()
    before = model.state_dict()["tail.0.weight"].clone()
    run(RandomTail(), model, targets)
    assert torch.equal(torch.get_rng_state(), state)
    first = model.state_dict()["tail.0.weight"].clone()
    run(RandomTail(), model, targets)
    assert torch.equal(model.state_dict()["tail.0.weight"], first)
    assert not torch.equal(first, before)


def test_fewer_rows_than_a_batch_are_one_clear_line(model, targets):
    with pytest.raises(RunError, match="a batch has 500 rows, but the task has only 160"):
        run(TaskOnly(batch_size=500), model, targets)


def test_the_losses_of_sophon_are_those_of_the_probabilities():
    outputs = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, p = torch.tensor([0, 1, 2, 2, 0]), outputs.softmax(1)
    inverse = -(1 - p[torch.arange(5), y]).log().mean()
    torch.testing.assert_close(inverse_cross_entropy(outputs, y), inverse)
    torch.testing.assert_close(divergence_from_uniform(outputs, y), ((1 / 3) * (1 / 3 / p).log()).sum(1).mean())


@pytest.mark.parametrize("loss", ["inverse", "uniform"])
def test_a_step_of_sophon_is_that_of_a_plain_loop(loss, model, targets):
    """First-order gradients after each of two steps of gradient descent with a new head, then a step of Adam. The
    benign step is too small to matter."""
    base = deepcopy(model)
    run(
        SophonDeep(
            steps=1, loss=loss, inner_steps=2, inner_lr=0.1, inner_optimiser="gd", clip=1e6, lr=0.01, retain_lr=1e-9
        ),
        model,
        targets,
    )
    draw = targets.generator()
    harmful = targets.harmful.batches(64, draw)
    attacked, head = deepcopy(base.tail), torch.nn.Linear(12, 3)
    torch.nn.init.zeros_(head.bias)
    torch.nn.init.xavier_uniform_(head.weight, generator=draw)
    descent = torch.optim.SGD([*attacked.parameters(), *head.parameters()], lr=0.1)
    total = [torch.zeros_like(weight) for weight in attacked.parameters()]
    for _ in range(2):
        rows = next(harmful)
        descent.zero_grad()
        torch.nn.functional.cross_entropy(head(attacked(rows.x)), rows.y).backward()
        descent.step()
        rows = next(harmful)
        p = head(attacked(rows.x)).softmax(1)
        right = p[torch.arange(64), rows.y]
        value = -(1 - right).log().mean() if loss == "inverse" else -p.log().mean()
        for part, gradient in zip(total, torch.autograd.grad(value, list(attacked.parameters())), strict=True):
            part += gradient / 2
    for weight, part in zip(base.tail.parameters(), total, strict=True):
        weight.grad = part
    torch.optim.Adam(base.tail.parameters(), lr=0.01).step()
    for own, weight in zip(model.tail.parameters(), base.tail.parameters(), strict=True):
        torch.testing.assert_close(own, weight, atol=2e-5, rtol=0)


def test_rep_noise_moves_activations_towards_noise(model, targets):
    """The outputs of the convolution, on rows that it was not trained on last."""

    def distance():
        outputs = model.tail[0](targets.harmful.x).detach()
        return float(distance_from_noise(outputs, "standard", torch.Generator().manual_seed(0), samples=160))

    before = distance()
    run(RepNoiseDeep(steps=60, lr=0.03, harm_weight=0, noise="standard"), model, targets)
    assert distance() < 0.9 * before


@pytest.mark.parametrize(
    "defense", [SophonDeep(steps=30, lr=3e-3), ClampDeep(steps=30, lr=3e-3, inner_lr=0.5)], ids=["sophon", "clamp"]
)
def test_an_attacker_of_the_simulated_kind_gets_less_far(defense, model, targets):
    """Of the loss of a head of zeros, log 3, gradient descent on tail and head takes off less."""

    def reached(released):
        tail, head = deepcopy(released.tail), torch.nn.Linear(12, 3)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        optimiser = torch.optim.SGD([*tail.parameters(), *head.parameters()], lr=0.5)
        for _ in range(20):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(head(tail(targets.harmful.x)), targets.harmful.y)
            loss.backward()
            optimiser.step()
        return float(loss.detach())

    kept = deepcopy(model)
    run(TaskOnly(steps=30, lr=3e-3), kept, targets)
    run(defense, model, targets)
    assert reached(model) > reached(kept) + 0.05
