"""The attackers on real features."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from harness import meter
from harness.errors import RunError
from harness.probe.data import Split, load
from harness.probe.metrics.convergence import excess_loss
from harness.probe.model import Extractor, LinearProbe, losses
from harness.probe.optimum import optimum
from harness.probe.tasks import Task
from harness.registry import Registry
from tests.helpers import houses_read_by_default

HOUSES = Task(data="house_prices")
DIGITS = Task(data="mnist5k", framing="one-vs-rest", benign=4, harmful=9)
ATTACKERS = [entry.name for entry in Registry().all("attacker") if entry.about["track"] == "probe"]


@pytest.fixture(scope="module")
def immunized(build):
    """Harmful house-price features before and after the condition-number defense, seed 1."""
    targets = replace(houses_read_by_default(), seed=1)
    model = Extractor(79)
    list(build("defense", "condition_number", "house_prices").immunize(model, targets))
    with torch.no_grad():
        return {"identity": targets.harmful, "immunized": Split(model(targets.harmful.x), targets.harmful.y)}


def excess(attacker, data, steps, loss="squared"):
    """Excess loss at steps 0 … steps."""
    probe = LinearProbe(data.x.shape[1], loss)
    trace = [float(probe.loss(data).detach())]
    meter.pull(attacker.adapt(probe, data), "it", steps, lambda _: trace.append(float(probe.loss(data).detach())))
    return excess_loss(torch.tensor(trace, dtype=torch.float64), optimum(data, data, loss, None).best_loss)


@pytest.mark.parametrize(
    ("name", "params", "identity", "immunized_"),
    [
        # Measured before by others at 10/100/1000 steps: the identity's figures are the same to two digits, the
        # immunized ones, of another seed's weights, of the same size.
        ("gradient_descent", {}, (0.022, 0.0017, 0.0003), (0.644, 0.184, 0.048)),
        ("gradient_descent", {"step": "1/L"}, (0.038, 0.0044, 0.0004), (0.819, 0.294, 0.090)),
    ],
)
def test_gradient_descent_reaches_the_known_excess_losses(build, immunized, name, params, identity, immunized_):
    attacker = build("attacker", name, **params)
    values = [float(value) for value in excess(attacker, immunized["identity"], 1000)[[10, 100, 1000]]]
    assert values == pytest.approx(identity, rel=0.15)
    values = [float(value) for value in excess(attacker, immunized["immunized"], 1000)[[10, 100, 1000]]]
    assert values == pytest.approx(immunized_, rel=0.5)


def test_condition_number_stops_gradient_descent_but_not_stronger_attackers(build, immunized):
    """Real against plain gradient descent, a delay against others, void against whitening."""
    features = immunized["immunized"]
    plain = excess(build("attacker", "gradient_descent"), features, 100)[-1]
    assert plain > 0.1
    assert excess(build("attacker", "conjugate_gradient"), features, 100)[-1] < 0.01
    assert excess(build("attacker", "lbfgs"), features, 100)[-1] < 0.02
    assert abs(excess(build("attacker", "whitened_descent"), features, 1)[-1]) < 1e-9


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_every_attacker_breaks_the_undefended_model_and_does_not_weaken(build, name, loss):
    data = load(DIGITS).train.harmful
    values = excess(build("attacker", name), data, 60, loss)
    assert float(values[60]) < 0.5
    assert float(values[60]) <= float(values[30]) + 1e-6


@pytest.mark.parametrize("name", ATTACKERS)
def test_attacks_are_repeatable_and_draw_nothing(build, name):
    data = load(HOUSES).train.harmful
    before = torch.get_rng_state()
    first, second = (excess(build("attacker", name), data, 5) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_conjugate_gradients_are_the_linear_ones_on_the_squared_loss(build):
    """Hestenes & Stiefel's recursion, written plainly."""
    generator = torch.Generator().manual_seed(0)
    data = Split(*(torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((20, 6), (20,))))
    hessian, right = 2 * data.x.T @ data.x / 20, 2 * data.x.T @ data.y / 20
    w, r = torch.zeros(6, dtype=torch.float64), right.clone()
    p = r.clone()
    probe = LinearProbe(6)
    for _ in itertools.islice(build("attacker", "conjugate_gradient").adapt(probe, data), 5):
        alpha = r @ r / (p @ hessian @ p)
        w, fresh = w + alpha * p, r - alpha * hessian @ p
        p, r = fresh + (fresh @ fresh) / (r @ r) * p, fresh
        torch.testing.assert_close(probe.weight.detach(), w, rtol=1e-8, atol=1e-10)


def test_whitened_descent_is_newtons_method(build):
    data = load(DIGITS).train.harmful
    probe = LinearProbe(784)
    next(build("attacker", "whitened_descent").adapt(probe, data))
    expected = torch.from_numpy(np.linalg.lstsq(data.x.numpy(), data.y.numpy(), rcond=1e-12)[0])
    torch.testing.assert_close(probe.weight.detach(), expected, rtol=1e-6, atol=1e-9)


@given(seed=st.integers(0, 50), loss=st.sampled_from(["squared", "logistic"]))
@settings(max_examples=40, deadline=None)
def test_gradient_and_exact_line_search(seed, loss):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    y = (torch.rand(12, generator=generator) > 0.5).double()
    data, probe = Split(x, y), LinearProbe(4, loss)
    with torch.no_grad():
        probe.weight.copy_(torch.randn(4, dtype=torch.float64, generator=generator) / 3)
    value, gradient = probe.gradient(data)
    (expected,) = torch.autograd.grad(probe.loss(data), probe.weight)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(value, probe.loss(data).detach())

    step = probe.exact_step(data, -gradient)

    def along(t):
        return float(losses(x @ (probe.weight.detach() - t * gradient), y, loss))

    assert step > 0
    assert along(step) <= min(along(step * 0.99), along(step * 1.01)) + 1e-12
    assert probe.exact_step(data, gradient) == 0.0  # uphill
    # 1/L never overshoots.
    assert along(1 / probe.smoothness(data)) <= along(0) + 1e-12


def test_a_logistic_loss_needs_targets_between_0_and_1():
    """On others it has no lower bound: a third party's data set, too, fails with a reason."""
    data = Split(torch.eye(3, dtype=torch.float64), torch.tensor([0.0, 1.0, 1.5], dtype=torch.float64))
    with pytest.raises(RunError, match="needs targets within 0 … 1"):
        optimum(data, data, "logistic", None)
    assert optimum(data, data, "squared", None).best_loss == pytest.approx(0)


def test_logistic_optimum_agrees_with_a_plain_solver():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(60, 3, dtype=torch.float64, generator=generator)
    y = (x @ torch.tensor([1.0, -2, 0.5], dtype=torch.float64) + torch.randn(60, generator=generator) > 0).double()
    data = Split(x, y)
    best = optimum(data, data, "logistic", "accuracy")
    expected = minimize(lambda w: float(losses(x @ torch.as_tensor(w), y, "logistic")), np.zeros(3), tol=1e-12)
    assert best.best_loss == pytest.approx(expected.fun, rel=1e-8)
    np.testing.assert_allclose(best.weights.numpy(), expected.x, rtol=1e-4)
