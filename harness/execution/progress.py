"""How a run is shown while it goes on: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.execution.costs import Costs
from harness.execution.scheduler import Outcome, Progress
from harness.plan import Job, Plan

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Display(Progress):
    """Jobs done, running, shared and failed, the time left by what jobs cost, and each stage's seconds and memory."""

    def __init__(self, console: Console | None = None) -> None:
        self._plan: Plan | None = None
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """One line, above what is live."""
        self._console.print(line, markup=False, soft_wrap=True)

    def began(self, plan: Plan, missing: Mapping[str, Job], costs: Costs, workers: int) -> None:
        """Start to show."""
        self._plan, self._costs, self._workers = plan, costs, workers
        self._shared, self._total = len(plan.jobs) - len(missing), len(missing)
        self._left: dict[str, Job] = dict(missing)
        self._running: dict[str, Job] = {}
        self._failed = 0
        self._of_stage = Counter(job.stage for job in missing.values())
        self._done: Counter[str] = Counter()
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._peak: dict[str, float] = defaultdict(float)
        self._told = time.monotonic()
        self._estimated = float("-inf"), ""
        if missing and self._console.is_terminal:
            self._live.start()

    def started(self, job: Job) -> None:
        """It runs."""
        self._running[job.key] = job

    def finished(self, job: Job, outcome: Outcome) -> None:
        """It has ended."""
        assert self._plan is not None
        del self._left[job.key]
        self._running.pop(job.key, None)
        self._done[job.stage] += 1
        if outcome.seconds is not None:
            self._costs.add(job.about, outcome.seconds)
            self._seconds[job.stage].append(outcome.seconds)
            self._peak[job.stage] = max(self._peak[job.stage], outcome.peak_mb or 0)
        if outcome.reason is not None:
            self._failed += 1
            self.say(f"failed: {job.stage}: {self._plan.describe(job)}: {outcome.reason}")
        if not self._console.is_terminal and time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            self.say(f"{self._counts()}, {self._plan.describe(job)}")

    def _counts(self) -> str:
        done = self._total - len(self._left)
        return f"{done} of {self._total} jobs, {self._failed} failed, {self._shared} shared{self._time_left()}"

    def _time_left(self) -> str:
        """By the costs, worked out anew every two seconds."""
        if time.monotonic() - self._estimated[0] > 2:
            seconds = self._costs.total(self._left.values())
            told = f", {duration(seconds / self._workers)} left" if seconds else ""
            self._estimated = time.monotonic(), told
        return self._estimated[1]

    def _render(self) -> RenderableType:
        if self._plan is None:
            return Text("")
        stages = Table("stage", "done", "of", "running", "s a job", "MiB", box=None, padding=(0, 2, 0, 0))
        running = Counter(job.stage for job in list(self._running.values()))
        for stage, total in self._of_stage.items():
            seconds = self._seconds[stage]
            stages.add_row(
                stage,
                str(self._done[stage]),
                str(total),
                str(running[stage] or ""),
                f"{sum(seconds) / len(seconds):.3g}" if seconds else "",
                f"{self._peak[stage]:.0f}" if seconds else "",
            )
        at = [f"  {job.stage}: {self._plan.describe(job)}" for job in list(self._running.values())[: self._workers]]
        bar = ProgressBar(total=self._total, completed=self._total - len(self._left), width=60)
        return Group(stages, Text("\n".join(at)), bar, Text(self._counts()))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
