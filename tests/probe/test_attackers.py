"""The attackers on real features."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from attackers.gradient_descent import GradientDescent
from attackers.undo import Undo
from harness import meter
from harness.errors import RunError
from harness.probe.data import Split, load
from harness.probe.metrics.convergence import excess_loss
from harness.probe.model import Extractor, LinearProbe, losses
from harness.probe.optimum import optimum
from harness.probe.plugin import TrainingRows
from harness.probe.ridge import fit_ridge
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


def attacked(attacker, data, steps, loss="squared", on_step=None, model=None):
    """The probe after an attack of some steps, and its cost. model: the extractor, for an attacker that knows it."""
    rows = TrainingRows(data.x, data.y, 5, model or Extractor(data.x.shape[1]))
    probe = LinearProbe(data.x.shape[1], loss)
    on_step = on_step and partial(on_step, probe)
    return probe, meter.pull(attacker.generator(probe, rows), "it", steps, on_step)


def excess(attacker, data, steps, loss="squared"):
    """Excess loss at steps 0 … steps."""
    trace = [float(LinearProbe(data.x.shape[1], loss).loss(data).detach())]
    attacked(attacker, data, steps, loss, lambda probe, _: trace.append(float(probe.loss(data).detach())))
    best = optimum(data, data, loss, None, attacker.intercept).best_loss
    return excess_loss(torch.tensor(trace, dtype=torch.float64), best)


def draw(seed, rows, dim):
    """Rows of a regression with features of unequal scale, and one without any."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, dtype=torch.float64, generator=generator) * torch.logspace(1, -2, dim)
    x[:, 1] = 0
    y = x @ torch.randn(dim, dtype=torch.float64, generator=generator) / x.std(0).clamp(min=1e-3).max()
    return Split(x + 0.3, y + 2 + 0.1 * torch.randn(rows, dtype=torch.float64, generator=generator))


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
    assert excess(build("attacker", "krylov"), features, 100)[-1] < 0.001
    assert excess(build("attacker", "lbfgs"), features, 100)[-1] < 0.02
    assert abs(excess(build("attacker", "whitened_descent"), features, 1)[-1]) < 1e-9


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("loss", ["squared", pytest.param("logistic", marks=pytest.mark.slow)])
def test_every_attacker_breaks_the_undefended_model_and_does_not_weaken(build, name, loss):
    data = load(DIGITS).train.harmful
    values = excess(build("attacker", name), data, 60, loss)
    assert float(values[60]) < 0.5
    assert float(values[60]) <= float(values[30]) + 1e-6


@pytest.mark.parametrize("name", ATTACKERS)
def test_attacks_are_repeatable_and_draw_from_their_seed(build, name):
    data = load(HOUSES).train.harmful
    before = torch.get_rng_state()
    first, second = (excess(build("attacker", name), data, 5) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_krylov_is_the_best_polynomial_of_the_curvature(build):
    """w_t minimises the loss over the span of g, Hg, …, Hᵗ⁻¹g, as exact rational arithmetic finds it."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(-9, 10, (12, 5)), generator.integers(-9, 10, 12)
    x = sympy.Matrix(x) * sympy.diag(1, 10, 100, 1000, 1)
    y = sympy.Matrix(y)
    data = Split(*(torch.tensor(np.array(part, dtype=float)) for part in (x, y.T.tolist()[0])))
    probe = LinearProbe(5)
    span = [x.T * y]
    for _ in itertools.islice(build("attacker", "krylov").adapt(probe, data), 5):
        images = x * sympy.Matrix.hstack(*span)
        best = (images.T * images).LUsolve(images.T * y)
        residual = images * best - y
        loss = float((residual.T * residual)[0] / 12)
        assert float(probe.loss(data).detach()) == pytest.approx(loss, rel=1e-9)
        span.append(x.T * x * span[-1])


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_no_descent_within_the_gradients_has_a_lower_loss_than_krylov(build, immunized, loss):
    """Neither exact line searches nor L-BFGS, which uses more evaluations."""
    data = immunized["immunized"] if loss == "squared" else load(DIGITS).train.harmful
    best = excess(build("attacker", "krylov"), data, 12, loss)
    for other in ("gradient_descent", "nesterov", "lbfgs"):
        assert (best <= excess(build("attacker", other), data, 12, loss) + 1e-9).all()
    assert (best.diff() <= 1e-12).all()


def test_nesterov_takes_the_steps_of_fista(build):
    """As numpy takes them (Beck & Teboulle, 2009), from the point ahead; a restart forgets the last step. The bound of
    the paper holds until then."""
    rows, generator = 30, np.random.default_rng(0)
    x, y = generator.normal(size=(rows, 6)) * [1, 1, 1, 1, 0.5, 0.2], generator.normal(size=rows)
    data = Split(torch.from_numpy(x), torch.from_numpy(y))
    curvature = 2 * np.linalg.eigvalsh(x.T @ x / rows)[-1]
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    last, ahead, t, restarts = np.zeros(6), np.zeros(6), 1.0, []

    def compare(probe, step):
        nonlocal last, ahead, t
        gradient = 2 * x.T @ (x @ ahead - y) / rows
        new = ahead - gradient / curvature
        if gradient @ (new - last) > 0:
            restarts.append(step)
            t = 1.0
        after = (1 + np.sqrt(1 + 4 * t**2)) / 2
        ahead, last, t = new + (t - 1) / after * (new - last), new, after
        np.testing.assert_allclose(probe.weight.detach().numpy(), new, rtol=1e-8, atol=1e-12)
        above = np.square(x @ new - y).mean() - np.square(x @ best - y).mean()
        assert restarts or above <= 2 * curvature * best @ best / (step + 1) ** 2

    attacked(build("attacker", "nesterov"), data, 60, on_step=compare)
    assert restarts
    assert restarts[0] > 2


def test_nesterov_is_ahead_of_gradient_descent_on_an_immunized_model(build, immunized):
    """At the order of 1/t² against 1/t."""
    values = {name: excess(build("attacker", name), immunized["immunized"], 100)[-1] for name in
              ("gradient_descent", "nesterov")}  # fmt: skip
    assert values["nesterov"] < values["gradient_descent"] / 2


@given(
    seed=st.integers(0, 50),
    standardise=st.booleans(),
    intercept=st.booleans(),
    rows=st.sampled_from([9, 30]),
)
@settings(max_examples=30, deadline=None)
def test_standardised_features_and_intercept(seed, standardise, intercept, rows):
    """The head on the released features is that of plain numpy on the features so transformed, also step by step."""
    data = draw(seed, rows, 6)
    attacker = GradientDescent(standardise=standardise, intercept=intercept)
    x = data.x.numpy()
    scale = np.where(x.std(0) > 1e-9, x.std(0), 1) if standardise else np.ones(6)
    z = (x - x.mean(0) * (standardise and intercept)) / scale
    z = np.column_stack([z, np.ones(rows)]) if intercept else z
    w = np.zeros(z.shape[1])

    def compare(probe, step):
        nonlocal w
        gradient = 2 * z.T @ (z @ w - data.y.numpy()) / rows
        w = w - gradient * (gradient @ gradient) * rows / (2 * np.square(z @ gradient).sum())
        np.testing.assert_allclose(probe(data.x).detach().numpy(), z @ w, rtol=1e-6, atol=1e-8)
        assert (float(probe.bias) != 0) == intercept

    attacked(attacker, data, 4, on_step=compare)


@given(seed=st.integers(0, 50), rows=st.sampled_from([5, 8, 30]))
@settings(max_examples=30, deadline=None)
def test_optimum_with_an_intercept(seed, rows):
    """As least squares on features with a column of ones, above and below as many rows as features."""
    data = draw(seed, rows, 6)
    best = optimum(data, data, "squared", "r2", intercept=True)
    ones = np.column_stack([data.x.numpy(), np.ones(rows)])
    residual = ones @ np.linalg.lstsq(ones, data.y.numpy(), rcond=1e-12)[0] - data.y.numpy()
    assert best.best_loss == pytest.approx(np.square(residual).mean(), rel=1e-6, abs=1e-18)
    out = (data.x @ best.weights + best.bias).numpy()
    assert np.square(out - data.y.numpy()).mean() == pytest.approx(best.best_loss, rel=1e-6, abs=1e-12)
    assert optimum(data, data, "squared", "r2").bias == 0


@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_fits_more_rows_in_each_step(build, intercept):
    """The first 10, 20 and 50 rows in the order that its seed draws."""
    data = draw(1, 50, 6)
    outputs = []
    attacker = build("attacker", "ridge", rows=(10, 20), intercept=intercept)
    attacked(attacker, data, 4, on_step=lambda probe, _: outputs.append(probe(data.x).detach()))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(5))
    for out, count in zip(outputs, (10, 20, 50, 50), strict=True):
        head, bias = fit_ridge(Split(data.x[order[:count]], data.y[order[:count]]), intercept)
        torch.testing.assert_close(out, data.x @ head + bias)


@given(seed=st.integers(0, 50), spread=st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_undo_undoes_any_invertible_extractor(seed, spread):
    """It reaches the outputs that it reaches on the undefended model, whatever the condition number."""
    data = draw(seed, 30, 6)
    generator = torch.Generator().manual_seed(seed)
    model = Extractor(6)
    with torch.no_grad():
        u, v = (torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q for _ in range(2))
        model.weight.copy_(u * torch.logspace(spread, -spread, 6, dtype=torch.float64) @ v)
        model.bias.copy_(torch.randn(6, dtype=torch.float64, generator=generator))
    features = model.features(data)
    undefended, _ = attacked(Undo(), data, 3)
    probe, _ = attacked(Undo(), features, 3, model=model)
    torch.testing.assert_close(probe(features.x), undefended(data.x), rtol=1e-5, atol=1e-5)


def test_minibatch_holds_the_step_size_of_the_lowest_validation_loss(build):
    """Of three rates, of which one does nothing and one diverges."""
    data = load(HOUSES).train.harmful
    rates = {"rates": (1e-9, 0.1, 1e4), "optimiser": "sgd"}
    chosen = attacked(build("attacker", "minibatch", **rates), data, 16)[0].weight
    fit, _ = TrainingRows(data.x, data.y).split()
    alone = attacked(build("attacker", "minibatch", lr=0.1, optimiser="sgd"), fit, 16)[0].weight
    assert torch.equal(chosen, alone)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_stochastic_gradient_descent_does_not_depend_on_the_scale_of_the_features(build, scale):
    data = draw(3, 50, 6)
    attacker = build("attacker", "minibatch", optimiser="sgd")
    plain, scaled = (
        attacked(attacker, Split(data.x * factor, data.y), 32)[0](data.x * factor) for factor in (1, scale)
    )
    torch.testing.assert_close(scaled, plain)


def test_a_cosine_starts_anew_after_its_period(build):
    """The step size is zero at the end of a period: the last step of one changes least."""
    data = load(HOUSES).train.harmful
    heads = [torch.zeros(79, dtype=torch.float64)]
    attacker = build("attacker", "minibatch", lr=1e-3, period=8, batch=None)
    attacked(attacker, data, 16, on_step=lambda probe, _: heads.append(probe.weight.detach().clone()))
    sizes = [float((b - a).norm()) for a, b in itertools.pairwise(heads)]
    assert sizes[7] < 0.1 * sizes[0]
    assert sizes[8] > 5 * sizes[7]


@pytest.mark.parametrize(
    ("name", "params", "gradients", "samples"),
    [
        ("gradient_descent", {}, 1.5 * 6, 2 * 6 * 50),
        ("gradient_descent", {"step": "1/L"}, 6, 6 * 50),
        ("adam", {}, 6, 6 * 50),
        ("krylov", {}, 6, 6 * 50),
        ("nesterov", {}, 6, 6 * 50),
        ("krylov", {"standardise": True, "intercept": True}, 6, 6 * 50),
        ("whitened_descent", {}, 6, 6 * 50),
        # Batches of 16, 16, 16 and 2 rows.
        ("minibatch", {"lr": 0.1, "batch": 16}, 6, 50 + 16 + 16),
        # 40 rows in batches of 16, 16 and 8 for two rates, compared on 10 rows after 1, 2 and 4 steps.
        ("minibatch", {"rates": (0.1, 0.01), "batch": 16}, 2 * (6 + 3), 2 * (80 + 3 * 10)),
        ("ridge", {"rows": (10, 20)}, 0, 50),
        ("undo", {"rows": (10, 20)}, 0, 50),
    ],
)
def test_gradient_evaluations_and_samples_are_counted(build, name, params, gradients, samples):
    _, cost = attacked(build("attacker", name, **params), draw(2, 50, 6), 6)
    assert (cost.gradients, cost.samples) == (gradients, samples)


def test_line_searches_of_lbfgs_are_counted(build):
    _, cost = attacked(build("attacker", "lbfgs"), draw(2, 50, 6), 6)
    assert 6 < cost.gradients <= 6 * 25
    assert cost.samples == 50 * cost.gradients


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
