"""What jobs cost, from those that ran before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from harness.plan import Job

Kind = tuple[str | None, ...]


class Costs:
    """Mean seconds for a unit of work: of jobs of the same stage and the same call of a plugin, else of the same
    plugin, else of the stage.

    ledger: entries as `Store.ledger` gives them.
    """

    def __init__(self, ledger: Iterable[Mapping[str, Any]] = ()) -> None:
        self._seconds: dict[Kind, float] = defaultdict(float)
        self._work: dict[Kind, float] = defaultdict(float)
        for entry in ledger:
            if entry.get("work"):  # older ledgers do not say
                self.add(entry, entry["seconds"])

    def add(self, about: Mapping[str, Any], seconds: float) -> None:
        """A job that took so long; `about`: its `Job.about`."""
        for kind in _kinds(about):
            self._seconds[kind] += seconds
            self._work[kind] += about["work"]

    def of(self, about: Mapping[str, Any], work: float = 1.0) -> float | None:
        """Seconds that so much work should take; None if no job of the stage ever ran."""
        for kind in _kinds(about):
            if kind in self._work:
                return work * self._seconds[kind] / self._work[kind]
        return None

    def total(self, jobs: Iterable[Job]) -> float | None:
        """Seconds of all these jobs; None if one of them is not known."""
        each = [self.of(job.about, job.work) for job in jobs]
        return None if None in each else sum(cost for cost in each if cost is not None)


def _kinds(about: Mapping[str, Any]) -> list[Kind]:
    """From the narrowest to the widest."""
    stage = (about["track"], about["stage"])
    return [(*stage, about.get("plugin"), about.get("call")), (*stage, about.get("plugin")), stage]
