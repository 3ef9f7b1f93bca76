"""Time estimates of jobs, from the cost of earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from harness.stage import Stage

Kind = tuple[str | None, ...]


class Estimates:
    """Mean seconds for a unit of work: of jobs of the same stage and the same plugin call, else of the same plugin,
    else of the stage.

    ledger: entries as `Store.ledger` gives them.
    """

    def __init__(self, ledger: Iterable[Mapping[str, Any]] = ()) -> None:
        self._seconds: dict[Kind, float] = defaultdict(float)
        self._work: dict[Kind, float] = defaultdict(float)
        for entry in ledger:
            if entry.get("work"):  # older ledgers lack it
                self.add(entry, entry["seconds"])

    def add(self, about: Mapping[str, Any], seconds: float) -> None:
        """Add a finished job, described by its `Stage.about`, that took `seconds`."""
        for kind in _kinds(about):
            self._seconds[kind] += seconds
            self._work[kind] += about["work"]

    def of(self, about: Mapping[str, Any], work: float = 1.0) -> float | None:
        """Estimated seconds of a job with this `about` and `work`; None if no job of its stage has run."""
        for kind in _kinds(about):
            if kind in self._work:
                return work * self._seconds[kind] / self._work[kind]
        return None

    def total(self, jobs: Iterable[Stage]) -> float | None:
        """Estimated seconds of all these jobs; None if one of them is unknown."""
        seconds, unknown = self.known(jobs)
        return None if unknown else seconds

    def known(self, jobs: Iterable[Stage]) -> tuple[float, int]:
        """Estimated seconds of those of the jobs that can be estimated, and the number of the others."""
        each = [self.of(job.about, job.work) for job in jobs]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known), len(each) - len(known)


def _kinds(about: Mapping[str, Any]) -> list[Kind]:
    """From the narrowest to the widest."""
    stage = (about["track"], about["stage"])
    return [(*stage, about.get("plugin"), about.get("call")), (*stage, about.get("plugin")), stage]
