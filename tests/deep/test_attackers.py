"""Attackers of deep networks: what they train, and that they converge to what the mathematics says."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from attackers.fine_tuning import FineTuning
from attackers.linear_probing import LinearProbing
from harness.deep import AttackRows, Network, Rows
from harness.deep.model import zero_linear
from harness.deep.trial import CLASSES, DIM, released, rows

OPTIMISERS = ("gradient_descent", "sgd", "adam", "lbfgs")


def probing():
    """A head of zeros, and features of the harmful task."""
    base, task = released(1), rows(2)
    x = base.features(task.x).detach()
    fit, validation = type(task)(x, task.y).split()
    return Network(nn.Identity(), zero_linear(DIM, CLASSES)), AttackRows(fit.x, fit.y, validation, CLASSES, seed=3)


def tuning():
    """A network, and activations of the harmful task."""
    fit, validation = rows(2).split()
    return Network(released(1).tail, zero_linear(DIM, CLASSES)), AttackRows(fit.x, fit.y, validation, CLASSES, seed=3)


def run(attacker, model, data, steps):
    return [float(loss) for loss in itertools.islice(attacker.adapt(model, data), steps)]


def accuracy(model, data):
    with torch.no_grad():
        return float((model.eval()(data.validation.x).argmax(1) == data.validation.y).double().mean())


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("features", ["raw", "standardised", "whitened"])
def test_every_probe_learns_the_task_and_leaves_the_data(optimiser, features):
    model, data = probing()
    before = data.x.clone()
    run(LinearProbing(optimiser=optimiser, features=features), model, data, 30)
    assert accuracy(model, data) > 0.85
    assert torch.equal(data.x, before)


def test_gradient_descent_with_step_1_over_l_descends_at_every_step():
    losses = run(LinearProbing(rates=(1.0,)), *probing(), 40)
    assert all(second < first for first, second in itertools.pairwise(losses))


def test_the_head_of_scaled_features_is_mapped_back():
    """The yielded loss, of the probe on the scaled features, is that of the head on the features as they are."""
    model, data = probing()
    for features in ("raw", "standardised", "whitened"):
        steps = LinearProbing(optimiser="adam", batch=None, features=features, rates=(0.05,)).adapt(model, data)
        for _ in range(5):
            next(steps)
            own = float(nn.functional.cross_entropy(model(data.x), data.y).detach())
        assert next(steps) == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("features", ["raw", "standardised", "whitened"])
def test_the_scale_of_the_features_decides_nothing(features):
    """A defense that divides all features by 1000 gains nothing: the intercept does not hide them."""
    losses = []
    for scale in (1.0, 1e-3):
        model, data = probing()
        held = Rows(scale * data.validation.x, data.validation.y)
        scaled = replace(data, x=scale * data.x, validation=held)
        losses.append(run(LinearProbing(features=features, rates=(3.0, 30.0)), model, scaled, 20))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_lbfgs_reaches_the_lowest_loss_of_gradient_descent():
    descent = min(run(LinearProbing(rates=(1.0,)), *probing(), 300))
    assert run(LinearProbing(optimiser="lbfgs"), *probing(), 20)[-1] < descent


def test_the_step_size_is_chosen_by_validation():
    """A rate that learns nothing and one that learns: the second is the attack, wherever it is in the list."""
    losses = [run(LinearProbing(rates=rates), *probing(), 20) for rates in ((1e-9, 3.0), (3.0, 1e-9), (3.0,))]
    assert losses[0][2:] == losses[1][2:] == losses[2][2:]


def test_probing_leaves_the_tail_and_fine_tuning_trains_it():
    model, data = tuning()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run(FineTuning(batch=32), model, data, 40)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {"tail.0.weight", "tail.1.running_mean", "head.weight"} <= changed
    assert accuracy(model, data) > 0.85


def test_frozen_statistics_stay():
    model, data = tuning()
    before = model.state_dict()["tail.1.running_mean"].clone()
    run(FineTuning(batch=32, frozen_statistics=True), model, data, 3)
    assert torch.equal(model.state_dict()["tail.1.running_mean"], before)


def test_a_reset_discards_the_released_tail():
    """Two released tails lead to the same attack."""
    ends = []
    for seed in (1, 2):
        model, data = tuning()
        model.tail.load_state_dict(released(seed).tail.state_dict())
        ends.append(run(FineTuning(batch=32, reset=True), model, data, 3))
    assert ends[0] == ends[1]
