"""How fast an attack converges on the released features."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from harness.metric import Quantity, Value
from harness.probe.optimum import scores
from harness.probe.plugin import AttackData, ProbeMetric, Trajectory


class Convergence(ProbeMetric):
    """Loss, distance and score of an attack's probe against steps, and its slow-down (ICML 2025, Eq. 16, Figure 1)."""

    deterministic = True
    measures = "attacked"
    quantities = (
        Quantity(
            name="excess_loss",
            title="excess loss",
            better="higher",
            description="(L_t − L*)/(L_0 − L*) on the training rows",
            formula="(L_t − L*)/(L_0 − L*) after t steps of the attack: 1 at the start, 0 at the best loss. On the "
            "harmful task a defender wants it high, on the benign task low.",
            limits="It does not show the effect on the score: near the optimum of a regression a large excess loss can "
            "be a small difference in score. L* is the lowest loss of a probe without an intercept, for an attacker "
            "with an intercept that of a probe with one.",
        ),
        Quantity(
            name="norm_ratio",
            title="norm ratio",
            better="higher",
            description="‖w_t − w*‖²/‖w_0 − w*‖² (ICML 2025, Eq. 16), w* of least norm",
            formula="‖w_t − w*‖²/‖w_0 − w*‖² (ICML 2025, Eq. 16). w* is the minimiser of least norm, because "
            "rank-deficient features have many minimisers.",
            limits="A high value alone does not show protection: on digits it stays near 1 under every first-order "
            "attacker, even when the probe has its best accuracy, because directions with tiny eigenvalues hold most "
            "of the norm and do not affect the accuracy.",
        ),
        Quantity(
            name="score",
            title="held-out score",
            better="lower",
            description="held-out accuracy (digits) or rank correlation (prices) of the attacked probe",
            formula="Accuracy at threshold ½, or Spearman's rank correlation, of the probe w_t on held-out rows.",
            limits="It is undefined where targets are constant (single-class digits).",
        ),
        Quantity(
            name="success",
            title="success",
            better="lower",
            description="held-out score, from chance (0) to perfect (1), of the probe that the attacker would pick",
            formula="(s − c)/(1 − c), s the held-out score of the probe w_t' that the attacker picks, c the score of "
            "chance (accuracy ½, correlation 0). t' ≤ t is the measured step with the highest validation score (the "
            "last of equal ones): that of a second run on four fifths of the training rows, on every fifth row. "
            "Held-out rows choose nothing.",
            limits="The second run, which costs the attacker at most as much as the first, is not in the run cost. It "
            "is undefined where targets are constant (single-class digits).",
        ),
        Quantity(
            name="steps_to_success",
            title="steps to success",
            unit="steps",
            better="higher",
            scale="log",
            description="steps until the excess loss is at most the protocol's `success`",
            formula="The first t with excess_loss ≤ `success`, 0.1 by default; the whole budget, flagged lower-bound, "
            "if there is none.",
            limits="Steps of different attackers differ in cost.",
        ),
        Quantity(
            name="slow_down",
            title="slow-down",
            better="higher",
            scale="log",
            description="steps to success over those on the undefended features",
            formula="steps_to_success(θ) / steps_to_success(I) of one attacker.",
            limits="It is only a lower bound where the attack does not succeed within the budget (flag lower-bound).",
        ),
    )

    def measure(self, model: Trajectory, data: AttackData) -> Iterator[Value]:
        """Yield loss, distance, score and success at the measured steps, and the steps to success and the slow-down
        once."""
        excess, undefended = (excess_loss(side.losses, side.optimum.best_loss) for side in (model, data.undefended))
        best, bias = model.optimum.weights, model.optimum.bias
        distance = (model.heads - best[:, None]).square().sum(0) + (model.biases - bias).square()
        distance = distance / (best.square().sum() + bias**2)
        for column, step in enumerate(model.steps):
            yield self.value(_finite(excess[step]), "excess_loss", split="train", step=step)
            yield self.value(_finite(distance[column]), "norm_ratio", split="train", step=step)
        if data.score is not None and model.validation is not None:
            heldout = model.heldout
            score = scores(heldout.x @ model.heads + model.biases, heldout.y, data.score)
            picked = model.validation.cummax(0).indices
            chance = 0.5 if data.score == "accuracy" else 0.0
            for step, own, success in zip(model.steps, score, (score[picked] - chance) / (1 - chance), strict=True):
                yield self.value(float(own), "score", split="heldout", step=step)
                yield self.value(float(success), "success", split="heldout", step=step)
        yield from self._slow_down(excess, undefended, data.success)

    def _slow_down(self, excess: torch.Tensor, undefended: torch.Tensor, success: float) -> Iterator[Value]:
        steps, base = _steps_to(excess, success), _steps_to(undefended, success)
        budget = len(excess) - 1
        flag = "lower-bound" if steps is None else None
        note = None if steps is not None else f"the excess loss does not fall to {success:g} within {budget} steps"
        yield self.value(float(steps or budget), "steps_to_success", flag=flag, note=note)
        if base is None:
            yield self.value(None, "slow_down", note="the attack does not succeed on the undefended model either")
        else:
            yield self.value((steps or budget) / base, "slow_down", flag=flag, note=note)


def excess_loss(losses: torch.Tensor, best_loss: float) -> torch.Tensor:
    """The excess loss (L_t − L*)/(L_0 − L*), (steps + 1); not finite if L_0 = L*.

    losses: (steps + 1), the losses L_t after t = 0, 1, … steps. best_loss: L*.
    """
    return (losses - best_loss) / (losses[0] - best_loss)


def _steps_to(excess: torch.Tensor, success: float) -> int | None:
    """The first step at which the excess loss is at most `success`; None if there is none."""
    reached = (excess <= success).nonzero()
    return int(reached[0, 0]) if len(reached) else None


def _finite(number: torch.Tensor) -> float | None:
    return float(number) if math.isfinite(number) else None
