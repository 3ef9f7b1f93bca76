"""Time estimates of jobs, from the cost of earlier ones.

`python -m harness.execution.estimates` prints the costs in this machine's store as the file of reference costs, from
which times are estimated where a stage has never run.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.stage import Stage

Kind = tuple[str | None, ...]
REFERENCE = Path(__file__).with_name("reference_costs.csv")
"""Costs on the machine that computed the boards: two shared cores of 2026, no GPU."""
COLUMNS = ("track", "stage", "network", "plugin", "work", "seconds")


class Estimates:
    """Mean seconds for a unit of work: of jobs of the same stage, network and plugin call, else of the same plugin,
    else of the stage and network.

    ledger: entries as `Store.ledger` gives them. reference: estimates for what has never run here.
    """

    def __init__(self, ledger: Iterable[Mapping[str, Any]] = (), reference: Estimates | None = None) -> None:
        self._seconds: dict[Kind, float] = defaultdict(float)
        self._work: dict[Kind, float] = defaultdict(float)
        self._reference = reference
        for entry in ledger:
            if entry.get("work"):  # older ledgers lack it
                self.add(entry, float(entry["seconds"]))

    @classmethod
    def here(cls, ledger: Iterable[Mapping[str, Any]]) -> Estimates:
        """From this machine's `ledger`, and from the reference costs for what has never run here."""
        with REFERENCE.open(encoding="utf-8", newline="") as file:
            return cls(ledger, cls(csv.DictReader(file)))

    def add(self, about: Mapping[str, Any], seconds: float) -> None:
        """Add a finished job, described by its `Stage.about`, that took `seconds`."""
        for kind in _kinds(about):
            self._seconds[kind] += seconds
            self._work[kind] += float(about["work"])

    def of(self, about: Mapping[str, Any], work: float = 1.0) -> float | None:
        """Estimated seconds of a job with this `about` and `work`; None if no job of its stage and network has run."""
        for kind in _kinds(about):
            if kind in self._work:
                return work * self._seconds[kind] / self._work[kind]
        return None if self._reference is None else self._reference.of(about, work)

    def total(self, jobs: Iterable[Stage]) -> float | None:
        """Estimated seconds of all these jobs; None if one of them is unknown."""
        seconds, unknown = self.known(jobs)
        return None if unknown else seconds

    def known(self, jobs: Iterable[Stage]) -> tuple[float, int]:
        """Estimated seconds of those of the jobs that can be estimated, and the number of the others."""
        each = [self.of(job.about, job.work) for job in jobs]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known), len(each) - len(known)

    def borrowed(self, jobs: Iterable[Stage]) -> int:
        """The number of the jobs of which no stage and network has run here."""
        return sum(_kinds(job.about)[-1] not in self._work for job in jobs)

    def rows(self) -> list[dict[str, Any]]:
        """The costs by stage, network and plugin, with `COLUMNS`."""
        return [
            dict(zip(COLUMNS, (*kind, f"{self._work[kind]:g}", f"{self._seconds[kind]:.4g}"), strict=True))
            for kind in sorted(self._work, key=str)
            if len(kind) == len(COLUMNS) - 2
        ]


def _kinds(about: Mapping[str, Any]) -> list[Kind]:
    """From the narrowest to the widest."""
    stage = (about["track"], about["stage"], about.get("network") or "")
    plugin = about.get("plugin") or None
    return [(*stage, plugin, about.get("call")), (*stage, plugin), stage]


def main() -> None:
    """Print the file of reference costs."""
    from harness.store import Store

    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(Estimates(Store().ledger()).rows())


if __name__ == "__main__":
    main()
