"""Two-level optimisation against a simulated attacker, for any model of torch.

A loss is a function of a tuple of weights, so the functions here know no track. The outer problem's weights are θ; a
simulated attacker starts from them and reaches ω₁, …, ω_K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field

Weights = tuple[torch.Tensor, ...]
Loss = Callable[[Weights], torch.Tensor]
"""A scalar as a function of weights."""
Product = Callable[[Weights], Weights]
"""A matrix, as the map from a vector to its product with the matrix."""
Optimiser = Literal["gd", "adam"]
Rate = Annotated[float, Field(gt=0)]
"""An attacker's step size, as a part of a plugin's field."""


def leaves(weights: Iterable[torch.Tensor]) -> Weights:
    """Copies of `weights` without history, for which gradients are recorded; half precision becomes float32."""
    dtypes = [(weight, torch.promote_types(weight.dtype, torch.float32)) for weight in weights]
    return tuple(weight.detach().to(dtype, copy=True).requires_grad_() for weight, dtype in dtypes)


def norm(weights: Weights) -> torch.Tensor:
    """The Euclidean norm of all `weights` together, a scalar."""
    return norm_squared(weights).sqrt()


def norm_squared(weights: Weights) -> torch.Tensor:
    """The sum of the squares of all `weights`, a scalar."""
    return torch.stack([weight.square().sum() for weight in weights]).sum()


def add(weights: Weights, others: Weights, factor: float | torch.Tensor = 1.0) -> Weights:
    """`weights` + `factor` · `others`."""
    return tuple(weight + factor * other for weight, other in zip(weights, others, strict=True))


def unit(weights: Weights) -> Weights:
    """`weights` over their norm; zeros stay zeros."""
    size = norm(weights).clamp_min(torch.finfo(weights[0].dtype).tiny)
    return tuple(weight / size for weight in weights)


def gradient(loss: Loss, weights: Weights) -> tuple[torch.Tensor, Weights]:
    """The loss at `weights` and its gradient, both without history."""
    at = leaves(weights)
    value = loss(at)
    return value.detach(), torch.autograd.grad(value, at)


def with_gradient(value: torch.Tensor, weights: Weights, gradients: Weights) -> torch.Tensor:
    """A scalar that equals `value` and whose gradient with respect to `weights` is `gradients`: it carries a gradient
    that was computed otherwise, such as an implicit or a first-order one, to an optimiser that differentiates."""
    moves = [(part * (weight - weight.detach())).sum() for weight, part in zip(weights, gradients, strict=True)]
    return value.detach() + torch.stack(moves).sum()


def attack(weights: Weights, losses: Iterable[Loss], lr: float, optimiser: Optimiser = "gd") -> Iterator[Weights]:
    """Take one step on each of `losses` in turn; yields the attacker's weights after every step, without history.

    weights: θ, which stay as they are. lr: step size. optimiser: gd: gradient descent; adam: Adam (Kingma & Ba, 2015).
    """
    at = leaves(weights)
    steps = (torch.optim.Adam if optimiser == "adam" else torch.optim.SGD)(at, lr=lr)
    for loss in losses:
        for weight, part in zip(at, torch.autograd.grad(loss(at), at), strict=True):
            weight.grad = part
        steps.step()
        yield tuple(weight.detach().clone() for weight in at)


def descent(loss: Loss, weights: Weights, lr: float) -> Weights:
    """One step of gradient descent, differentiable with respect to `weights`."""
    return add(weights, torch.autograd.grad(loss(weights), weights, create_graph=True), -lr)


def unroll(weights: Weights, losses: Iterable[Loss], lr: float) -> list[Weights]:
    """The path ω₀ = θ, ω₁, …, ω_K of gradient descent with one step on each of `losses`, differentiable with respect to
    θ (`weights`)."""
    path = [weights]
    for loss in losses:
        path.append(descent(loss, path[-1], lr))
    return path


def hessian(loss: Loss, weights: Weights) -> Product:
    """The Hessian of `loss` at `weights`, as a product without history."""
    at = leaves(weights)
    gradients = torch.autograd.grad(loss(at), at, create_graph=True)
    return lambda vector: torch.autograd.grad(gradients, at, vector, retain_graph=True)


def near(loss: Loss, centre: Weights, gamma: float) -> Loss:
    """`loss` plus ‖ω − θ‖²/(2γ), whose minimum is the Moreau envelope of `loss` at θ (`centre`)."""
    fixed = tuple(weight.detach() for weight in centre)
    return lambda weights: loss(weights) + norm_squared(add(weights, fixed, -1.0)) / (2 * gamma)


def richardson(product: Product, right: Weights, *, products: int, gamma: float = 1.0, step: float = 1.0) -> Weights:
    """Solve (I + γH) v = g by Richardson's iteration v ← v + s (g − v − γHv) from v = 0 (ResAlign, NeurIPS 2025).

    This is the derivative of an attacker's optimum ω* = argmin L(ω) + ‖ω − θ‖²/(2γ) applied to g, the gradient of an
    outer loss at ω*. The iteration converges if the eigenvalues of I + γH lie within (0, 2/s); with s = 1 it is the
    truncated Neumann series of the inverse.

    product: the map v ↦ Hv. right: g. products: number of iterations; the first one is v = s·g. gamma: γ. step: s.
    """
    v = tuple(step * part for part in right)
    for _ in range(products - 1):
        residual = add(add(right, v, -1.0), product(v), -gamma)
        v = add(v, residual, step)
    return v


def guarded_richardson(
    product: Product, right: Weights, direct: Weights, *, products: int, limit: float
) -> Weights | None:
    """Richardson's iteration with γ = 1 and the safeguards of ResAlign's released code; None if they all fail.

    The step s is 1 and is halved, at most five times, while the map v ↦ v − s (v + Hv) enlarges a vector (by the mean
    over tensors of the ratios of norms), or while the sum of the result and `direct` has a norm above `limit`.
    """
    for halvings in range(6):
        step = 0.5**halvings
        v = right  # the code's own v is ours over s
        for _ in range(products - 1):
            mapped = add(v, add(v, product(v)), -step)
            ratios = [a.norm() / b.norm() for a, b in zip(mapped, v, strict=True) if b.norm() > 0]
            if ratios and torch.stack(ratios).mean() > 1:
                break
            v = add(mapped, right)
        else:
            v = tuple(step * part for part in v)
            if norm(add(v, direct)) <= limit:
                return v
    return None


def along_path(
    path: Iterable[Weights], losses: Iterable[Loss | None], shares: Sequence[float]
) -> tuple[torch.Tensor, Weights]:
    """The weighted sum of losses along an attacker's path and its first-order gradient with respect to θ, in which the
    attacker's moves are constants (Finn et al., 2017).

    path: ω₁, …, ω_K. losses: a loss for each of them, or None where its weight is 0. shares: the K weights, not all 0.
    Returns (sum, gradient).
    """
    total: tuple[torch.Tensor, Weights] | None = None
    for weights, loss, share in zip(path, losses, shares, strict=True):
        if loss is not None and share:
            value, gradients = gradient(loss, weights)
            if total is None:
                total = value.new_zeros(()), tuple(torch.zeros_like(part) for part in gradients)
            total = total[0] + share * value, add(total[1], gradients, share)
    assert total is not None
    return total
