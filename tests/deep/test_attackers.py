"""Attackers of deep networks: what they train, and that they converge to what the mathematics says."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from attackers.fine_tuning import FineTuning
from attackers.linear_probing import LinearProbing
from attackers.lora_deep import LoRADeep
from harness.deep import AttackRows, Network, Rows
from harness.deep.model import zero_linear
from harness.deep.trial import CLASSES, DIM, released, rows, trunk
from harness.errors import RunError

OPTIMISERS = ("gradient_descent", "sgd", "adam", "lbfgs")


def probing():
    """A head of zeros, and features of the harmful task."""
    base, task = released(1), rows(2)
    x = base.features(task.x).detach()
    fit, validation = type(task)(x, task.y).split()
    return Network(nn.Identity(), zero_linear(DIM, CLASSES)), AttackRows(fit.x, fit.y, validation, CLASSES, seed=3)


def tuning(part="tail"):
    """A network whose tail or whole is trained, and the inputs of that part on the harmful task."""
    fit, validation = rows(2).split()
    network = Network(released(1).tail, zero_linear(DIM, CLASSES), trunk(5) if part == "network" else None)
    return network.eval(), AttackRows(fit.x, fit.y, validation, CLASSES, seed=3)


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


def values(model):
    """A copy of all weights and buffers, but for the scaling of the features, which an attack adds."""
    scaling = {"head.shift", "head.matrix"}
    return {key: value.clone() for key, value in model.state_dict().items() if key not in scaling}


@pytest.mark.parametrize("part", ["tail", "network"])
def test_fine_tuning_trains_all_of_its_part(part):
    model, data = tuning(part)
    before = values(model)
    run(FineTuning(part=part, batch=32), model, data, 40)
    assert {key for key, value in values(model).items() if torch.equal(value, before[key])} == set()
    assert accuracy(model, data) > 0.85


@pytest.mark.parametrize("part", ["tail", "network"])
def test_frozen_statistics_stay(part):
    model, data = tuning(part)
    before = values(model)
    run(FineTuning(part=part, batch=32, frozen_statistics=True), model, data, 3)
    same = {key for key, value in values(model).items() if torch.equal(value, before[key])}
    assert same == {key for key in before if "running" in key or "num_batches" in key}


@pytest.mark.parametrize("attacker", [FineTuning, LoRADeep])
@pytest.mark.parametrize("features", ["raw", "standardised", "whitened"])
def test_fine_tuning_learns_from_small_features_as_fast(attacker, features):
    """A defense that divides the features by 1000 does not slow the head down: the first steps are alike."""
    losses = []
    for scale in (1.0, 1e-3):
        model, data = tuning()
        model.map = nn.Linear(DIM, DIM, bias=False)
        model.map.weight.data = scale * torch.eye(DIM)
        model.map.requires_grad_(False)
        losses.append(run(attacker(part="tail", features=features, batch=32), model, data, 8))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0][-1] < 0.95 * losses[0][0]


@pytest.mark.parametrize("part", ["tail", "network"])
def test_a_reset_discards_the_released_tail_and_its_map(part):
    """Two released models, one with a map, lead to the same attack; it starts from the trunk as it is."""
    ends = []
    for seed in (1, 2):
        model, data = tuning(part)
        model.tail.load_state_dict(released(seed).tail.state_dict())
        model.map = None if seed == 1 else nn.Linear(DIM, DIM, bias=False)
        ends.append(run(FineTuning(part=part, batch=32, reset=True), model, data, 3))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("part", ["tail", "network"])
def test_lora_trains_adapters_and_the_head_alone(part):
    model, data = tuning(part)
    torch.manual_seed(1)
    model.map = nn.Linear(DIM, DIM, bias=False)
    before, state = values(model), torch.get_rng_state()
    run(LoRADeep(part=part, batch=32), model, data, 40)
    after = {key.replace(".base_layer", ""): value for key, value in values(model).items()}
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"head.weight", "head.bias"}
    adapted = {key.partition(".lora")[0] for key in after if ".lora_" in key}
    assert adapted == ({"trunk.0", "tail.0"} if part == "network" else {"tail.0"})
    assert all(bool(value.any()) for key, value in after.items() if ".lora_" in key)
    assert accuracy(model, data) > 0.85
    assert torch.equal(torch.get_rng_state(), state)


def test_the_change_by_lora_has_its_rank():
    """The tail is linear, so its outputs for the unit vectors are its matrix."""
    size = 6
    tail = nn.Sequential(nn.Linear(size, size))
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (60,), generator=draw)
    fit, validation = Rows(torch.randn(60, size, generator=draw) + y[:, None], y).split()
    model = Network(tail, zero_linear(size, CLASSES))
    units = torch.eye(size)
    before = model.features(units) - model.features(0 * units)
    attacker = LoRADeep(part="tail", rank=2, batch=16, rates=(1e-2,))
    run(attacker, model, AttackRows(fit.x, fit.y, validation, CLASSES), 60)
    change = model.features(units) - model.features(0 * units) - before
    singular = torch.linalg.svdvals(change.detach().double())
    assert singular[1] > 1e-3 > 1e-5 > singular[2]


def test_lora_says_that_a_network_has_no_layer_for_it():
    _, data = tuning()
    model = Network(nn.Sequential(nn.ReLU(), nn.Flatten()), zero_linear(64, CLASSES))
    with pytest.raises(RunError, match="lora_deep needs a linear layer or a convolution without groups"):
        run(LoRADeep(), model, data, 1)
