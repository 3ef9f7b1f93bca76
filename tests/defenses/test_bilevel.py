"""The mathematics of attacks that a defense simulates, on quadratics and a network of two layers, against plain oracles
in float64."""

import pytest
import torch

from defenses import _bilevel as bilevel
from defenses._contraction import curvature, response

SIZE = 6


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=draw(seed), dtype=torch.float64)


@pytest.fixture
def matrix() -> torch.Tensor:
    """Symmetric, with eigenvalues from −.3 to .8."""
    basis = torch.linalg.qr(randn(SIZE, SIZE, seed=0))[0]
    return basis @ torch.diag(torch.linspace(-0.3, 0.8, SIZE, dtype=torch.float64)) @ basis.T


def quadratic(matrix: torch.Tensor, centre: torch.Tensor):
    """½ (w − c)ᵀ A (w − c), of two tensors that together are w."""

    def loss(weights):
        w = torch.cat(weights) - centre
        return 0.5 * w @ matrix @ w

    return loss


def split(vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return vector[:2], vector[2:]


def network(seed: int):
    """The squared error of a network of two layers on a batch, of its two matrices."""
    x, y = randn(8, 3, seed=seed), randn(8, 2, seed=seed + 1)
    return lambda weights: ((x @ weights[0]).tanh() @ weights[1] - y).square().mean()


@pytest.fixture
def start() -> tuple[torch.Tensor, torch.Tensor]:
    return randn(3, 4, seed=10).requires_grad_(), randn(4, 2, seed=11).requires_grad_()


def test_richardson_is_the_exact_solve(matrix: torch.Tensor) -> None:
    loss, at, right = quadratic(matrix, torch.zeros(SIZE).double()), randn(SIZE, seed=1), randn(SIZE, seed=2)
    product = bilevel.hessian(loss, split(at))
    gamma = 0.5
    exact = torch.linalg.solve(torch.eye(SIZE).double() + gamma * matrix, right)
    v = torch.cat(bilevel.richardson(product, split(right), products=60, gamma=gamma))
    assert torch.allclose(v, exact, atol=1e-9)
    # another step size has the same limit, and few products have the truncated series
    assert torch.allclose(
        torch.cat(bilevel.richardson(product, split(right), products=200, gamma=gamma, step=0.3)), exact, atol=1e-9
    )
    series = sum(torch.linalg.matrix_power(-gamma * matrix, k) @ right for k in range(5))
    assert torch.allclose(torch.cat(bilevel.richardson(product, split(right), products=5, gamma=gamma)), series)


def test_a_hypergradient_is_the_derivative_of_the_attackers_optimum(start) -> None:
    """Against central differences through an inner problem that is solved to the end."""
    inner, outer, gamma = network(20), network(30), 0.4

    def optimum(theta):
        """argmin inner(ω) + ‖ω − θ‖²/(2γ), by Newton's method."""
        flat = torch.cat([part.flatten() for part in theta]).detach()

        def objective(w):
            return bilevel.near(inner, (flat[:12].reshape(3, 4), flat[12:].reshape(4, 2)), gamma)(
                (w[:12].reshape(3, 4), w[12:].reshape(4, 2))
            )

        w = flat
        for _ in range(14):
            first = torch.func.grad(objective)(w)
            w = w - torch.linalg.solve(torch.func.hessian(objective)(w), first)
        return w[:12].reshape(3, 4), w[12:].reshape(4, 2)

    adapted = optimum(start)
    _, right = bilevel.gradient(outer, adapted)
    v = bilevel.richardson(bilevel.hessian(inner, adapted), right, products=200, gamma=gamma, step=0.7)
    for place, entry in ((0, (0, 1)), (1, (3, 0))):
        sides = []
        for move in (1e-5, -1e-5):
            moved = [part.detach().clone() for part in start]
            moved[place][entry] += move
            sides.append(float(outer(optimum(moved))))
        assert float(v[place][entry]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_the_guard_halves_the_step_until_products_shrink(matrix: torch.Tensor) -> None:
    """With eigenvalues of 3 the map −H enlarges; with s = 1/4 and enough products the solution is exact."""
    right, direct = randn(SIZE, seed=2), randn(SIZE, seed=3)
    large = matrix + 3 * torch.eye(SIZE).double()
    product = bilevel.hessian(quadratic(large, torch.zeros(SIZE).double()), split(randn(SIZE, seed=1)))
    exact = torch.linalg.solve(torch.eye(SIZE).double() + large, right)
    settings = {"products": 200, "limit": 1e6}
    assert torch.allclose(
        torch.cat(bilevel.guarded_richardson(product, split(right), split(direct), **settings)), exact, atol=1e-8
    )
    size = float((exact + direct).norm())
    for limit, found in ((1.01 * size, True), (0.2 * size, False)):
        v = bilevel.guarded_richardson(product, split(right), split(direct), products=200, limit=limit)
        assert (v is not None) == found


@pytest.mark.parametrize("optimiser", ["gd", "adam"])
def test_an_attack_is_torchs_optimiser_and_leaves_its_start(start, optimiser: str) -> None:
    losses = [network(seed) for seed in (20, 30, 40)]
    known = [part.detach().clone() for part in start]
    *_, last = bilevel.attack(start, losses, 0.05, optimiser)
    plain = [torch.nn.Parameter(part.clone()) for part in known]
    steps = {"gd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser](plain, lr=0.05)
    for loss in losses:
        steps.zero_grad()
        loss(plain).backward()
        steps.step()
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(last, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(start, known, strict=True))


def test_an_unrolled_path_has_the_gradient_of_its_end(start) -> None:
    """Against central differences of the plain loop."""
    losses, outer = [network(seed) for seed in (20, 30, 40)], network(50)

    def end(weights):
        for loss in losses:
            gradients = torch.autograd.grad(loss(weights), weights)
            weights = [(w - 0.1 * g).detach().requires_grad_() for w, g in zip(weights, gradients, strict=True)]
        return float(outer(weights).detach())

    gradients = torch.autograd.grad(outer(bilevel.unroll(start, losses, 0.1)[-1]), start)
    for place, entry in ((0, (0, 0)), (0, (2, 1)), (1, (1, 1))):
        sides = []
        for move in (1e-5, -1e-5):
            moved = [part.detach().clone() for part in start]
            moved[place][entry] += move
            sides.append(end([part.requires_grad_() for part in moved]))
        assert float(gradients[place][entry]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("optimiser", ["gd", "adam"])
def test_first_order_gradients_along_a_path_are_those_of_a_plain_loop(start, optimiser: str) -> None:
    """First-order MAML: the attacker's moves are constants."""
    losses, evaluations = [network(seed) for seed in (20, 30, 40)], [network(seed) for seed in (50, 60, 70)]
    shares = (0.5, 0.0, 2.0)
    value, mine = bilevel.along_path(bilevel.attack(start, losses, 0.05, optimiser), evaluations, shares)

    plain = [torch.nn.Parameter(part.detach().clone()) for part in start]
    steps = {"gd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser](plain, lr=0.05)
    theirs, total = [torch.zeros_like(part) for part in plain], 0.0
    for loss, evaluation, share in zip(losses, evaluations, shares, strict=True):
        steps.zero_grad()
        loss(plain).backward()
        steps.step()
        steps.zero_grad()
        (share * evaluation(plain)).backward()
        total += share * float(evaluation(plain))
        theirs = [sum_ + part.grad for sum_, part in zip(theirs, plain, strict=True)]
    assert float(value) == pytest.approx(total, rel=1e-9)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(mine, theirs, strict=True))


def test_a_carried_gradient_is_passed_on(start) -> None:
    wanted = (randn(3, 4, seed=1), randn(4, 2, seed=2))
    carrier = bilevel.with_gradient(torch.tensor(3.5), start, wanted)
    assert float(carrier) == 3.5
    assert all(torch.equal(2 * a, b) for a, b in zip(wanted, torch.autograd.grad(2 * carrier, start), strict=True))


@pytest.mark.parametrize("lr", [0.4, 1.9])
def test_contraction_is_the_spectral_norm_of_a_step_of_descent(matrix: torch.Tensor, lr: float) -> None:
    """Of gradient descent on a quadratic, whose Jacobian is I − ηA: with iterations of the power method equal to its
    norm, with a random probe ‖(I − ηA)v‖, which is no more."""
    loss, at, probe = quadratic(matrix, randn(SIZE, seed=4)), randn(SIZE, seed=1), randn(SIZE, seed=5)
    jacobian = torch.eye(SIZE).double() - lr * matrix
    norm = float(torch.linalg.matrix_norm(jacobian, 2))
    weights = tuple(part.requires_grad_() for part in split(at))

    def step(weights):
        return bilevel.descent(loss, weights, lr)

    after = step(weights)
    one = bilevel.norm(response(step, weights, after, split(probe), epsilon=1e-3))
    assert float(one) == pytest.approx(float((jacobian @ probe).norm() / probe.norm()), rel=1e-8)
    assert float(one) < norm
    many = bilevel.norm(response(step, weights, after, split(probe), epsilon=1e-3, iterations=300))
    assert float(many) == pytest.approx(norm, rel=1e-6)


def test_contraction_and_curvature_are_differentiable(start) -> None:
    """Their gradients against central differences."""
    loss, probe, delta = network(20), (randn(3, 4, seed=1), randn(4, 2, seed=2)), 1e-2
    direction = bilevel.unit(probe)

    def step(weights):
        return bilevel.descent(loss, weights, 0.3)

    def values(weights):
        after = step(weights)
        yield bilevel.norm(response(step, weights, after, probe, epsilon=1e-2))
        yield curvature(loss, weights, direction, delta=delta)

    for n, value in enumerate(values(start)):
        gradients = torch.autograd.grad(value, start, retain_graph=True)
        sides = []
        for move in (1e-5, -1e-5):
            moved = [part.detach().clone() for part in start]
            moved[0][1, 2] += move
            sides.append(float(list(values(tuple(part.requires_grad_() for part in moved)))[n]))
        assert float(gradients[0][1, 2]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5)


def test_curvature_of_a_quadratic_is_that_of_its_matrix(matrix: torch.Tensor) -> None:
    loss, at = quadratic(matrix, randn(SIZE, seed=4)), randn(SIZE, seed=1)
    direction = randn(SIZE, seed=5)
    direction /= direction.norm()
    found = curvature(loss, split(at), split(direction), delta=0.1)
    assert float(found) == pytest.approx(float(direction @ matrix @ direction), rel=1e-9)
