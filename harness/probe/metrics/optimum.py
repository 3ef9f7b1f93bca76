"""Loss and score of the best probe on the released features."""

from __future__ import annotations

from collections.abc import Iterator

from harness.metric import Quantity, Value
from harness.probe.model import Extractor
from harness.probe.optimum import scores
from harness.probe.plugin import ProbeMetric, ReleasedData


class Optimum(ProbeMetric):
    """Loss and score of the best probe on the released features (after ICML 2025, Definition 3.1 c)."""

    deterministic = True
    quantities = (
        Quantity(
            name="best_loss",
            title="best loss",
            description="lowest loss of a probe on the training rows",
            formula="min over w of L(Xθ, w): for the squared loss in closed form, for the logistic loss by L-BFGS on "
            "the whitened features.",
            limits="It does not show how many steps an attacker needs, or whether the probe fits other rows.",
        ),
        Quantity(
            name="best_score",
            title="best score",
            description="held-out accuracy (digits) or rank correlation (prices) of the probe of lowest training loss",
            formula="Accuracy at threshold ½, or Spearman's rank correlation of outputs and targets, of w* on held-out "
            "rows.",
            limits="It is no upper bound: a probe whose training stops early may generalise better than w*. It is "
            "undefined where targets are constant (single-class digits).",
        ),
        Quantity(
            name="best_r2",
            title="best R²",
            description="held-out R² (prices) of the probe of lowest training loss",
            formula="1 − Σ(y − ŷ)²/Σ(y − ȳ)² of w* on held-out rows.",
            limits="A few outliers among the held-out rows decide it.",
        ),
    )

    def measure(self, model: Extractor, data: ReleasedData) -> Iterator[Value]:
        """Yield the best loss and, where targets vary, the best scores of both tasks."""
        for role, best in data.optima.items():
            yield self.value(best.best_loss, "best_loss", role=role, split="train")
            if best.best_score is not None:
                yield self.value(best.best_score, "best_score", role=role, split="heldout")
            if data.score == "spearman":
                heldout = getattr(data.heldout, role)
                out = model.features(heldout).x @ best.weights
                r2 = scores(out[:, None], heldout.y, "r2")
                yield self.value(float(r2[0]), "best_r2", role=role, split="heldout")
