"""What benign users get from the released features, on the named benign task and on others."""

from __future__ import annotations

from collections.abc import Iterator

from harness.metric import Quantity, Value
from harness.probe.data import BenignTask
from harness.probe.model import Extractor
from harness.probe.optimum import scores
from harness.probe.plugin import ProbeMetric, ReleasedData
from harness.probe.ridge import fit_ridge


class Retention(ProbeMetric):
    """Held-out score of a ridge probe on the features, for the benign and further benign tasks (after Allen, 1974)."""

    deterministic = True
    quantities = (
        Quantity(
            name="retention",
            title="retention",
            better="higher",
            description="held-out score of a ridge probe on benign tasks",
            formula="Accuracy at threshold ½ (digits) or Spearman's rank correlation (prices) on held-out rows, of a "
            "ridge probe with an intercept on the training rows' features, its penalty chosen by leave-one-out. Role "
            "benign: the task that defenses receive and are to keep. Role other: the mean over benign tasks that they "
            "do not receive: three further digits, each against the rest, or four further columns of the benign task's "
            "houses (year built, overall quality, rooms, garage area), each predicted from the others.",
            limits="It does not show how many steps or rows a benign user needs. Role benign is undefined where "
            "targets are constant (single-class digits).",
        ),
    )

    def measure(self, model: Extractor, data: ReleasedData) -> Iterator[Value]:
        """Yield the score on the benign task, where targets vary, and the mean score on the further ones."""
        if data.score is not None:
            benign = BenignTask(data.benign, data.heldout.benign, data.score)
            yield self.value(_score(model, benign), role="benign", split="heldout")
        others = [_score(model, task) for task in data.further.values()]
        if others:
            yield self.value(sum(others) / len(others), role="other", split="heldout")


def _score(model: Extractor, task: BenignTask) -> float:
    head, intercept = fit_ridge(model.features(task.train))
    out = model.features(task.heldout).x @ head + intercept
    return float(scores(out[:, None], task.heldout.y, task.score)[0])
