"""Shows the progress of a run: a live table on a terminal, a line now and then elsewhere."""

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

from harness.execution.estimates import Estimates
from harness.execution.scheduler import Progress
from harness.execution.worker import Outcome
from harness.plan import Plan
from harness.stage import Stage

LINE_SECONDS = 30.0
"""Between two lines where there is no terminal."""
ESTIMATE_SECONDS = 2.0
"""Between two estimates of the time left."""


class Display(Progress):
    """Shows jobs done, running, from the store and failed, the elapsed and the estimated time left, and each stage's
    seconds and memory. console: where to; None: the error output. quiet: show nothing but why jobs failed."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self._plan: Plan | None = None
        self._console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line, above the live table."""
        if not self._quiet:
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def began(self, plan: Plan, missing: Mapping[str, Stage], estimates: Estimates, workers: int) -> None:
        """Start to show a run."""
        self._plan, self._estimates, self._workers = plan, estimates, workers
        self._stored, self._total = len(plan.jobs) - len(missing), len(missing)
        self._left: dict[str, Stage] = dict(missing)
        self._running: dict[str, Stage] = {}
        self._reasons: Counter[str] = Counter()
        self._stage_totals = Counter(job.name for job in missing.values())
        self._done: Counter[str] = Counter()
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._peak_mb: dict[str, float] = defaultdict(float)
        self._began_at = self._line_at = time.monotonic()
        self._estimated_at, self._time_left, self._share = float("-inf"), "", 0.0
        if missing and self._console.is_terminal and not self._quiet:
            self._live.start()

    def started(self, job: Stage) -> None:
        """Show a job as running."""
        self._running[job.key] = job

    def finished(self, job: Stage, outcome: Outcome) -> None:
        """Count a job; print why it failed, once for each reason."""
        assert self._plan is not None
        del self._left[job.key]
        self._running.pop(job.key, None)
        self._done[job.name] += 1
        if outcome.seconds is not None:
            self._estimates.add(job.about, outcome.seconds)
            self._seconds[job.name].append(outcome.seconds)
            self._peak_mb[job.name] = max(self._peak_mb[job.name], outcome.peak_mb or 0)
        if outcome.reason is not None:
            self._reasons[outcome.reason] += 1
            if self._reasons[outcome.reason] == 1:
                self._print(f"failed: {job.name}: {self._plan.describe(job)}: {outcome.reason}")
        if not self._console.is_terminal and time.monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = time.monotonic()
            self.say(f"{self._counts()}, {self._plan.describe(job)}")

    def _counts(self) -> str:
        self._estimate()
        elapsed = duration(time.monotonic() - self._began_at)
        done = self._total - len(self._left)
        failed = self._reasons.total()
        return (
            f"{done} of {self._total} jobs, {failed} failed, {self._stored} from the store, {elapsed}{self._time_left}"
        )

    def _estimate(self) -> None:
        """Estimate the time left and the share of the work that is done. Of a job that cannot be estimated the time is
        unknown, and the share takes it for a mean one."""
        if time.monotonic() - self._estimated_at <= ESTIMATE_SECONDS:
            return
        self._estimated_at = time.monotonic()
        seconds, unknown = self._estimates.known(self._left.values())
        bound = "at least " if unknown else ""
        self._time_left = f", {bound}{duration(seconds / self._workers)} left" if seconds else ""
        spent = sum(map(sum, self._seconds.values()))
        known = len(self._left) - unknown + sum(map(len, self._seconds.values()))
        left = seconds + unknown * (seconds + spent) / known if known else 1.0
        self._share = spent / (spent + left) if spent else 0.0

    def render(self) -> RenderableType:
        """The live table."""
        if self._plan is None:
            return Text("")
        stages = Table("stage", "done", "of", "running", "s per job", "peak MiB", box=None, padding=(0, 2, 0, 0))
        running = list(self._running.values())[: self._workers]  # the others wait for a worker
        running_stages = Counter(job.name for job in running)
        for stage, total in self._stage_totals.items():
            seconds = self._seconds[stage]
            stages.add_row(
                stage,
                str(self._done[stage]),
                str(total),
                str(running_stages[stage] or ""),
                f"{sum(seconds) / len(seconds):.3g}" if seconds else "",
                f"{self._peak_mb[stage]:.0f}" if seconds else "",
            )
        lines = [f"  {job.name}: {self._plan.describe(job)}" for job in running]
        names = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=1.0, completed=self._share, width=min(60, self._console.width))
        return Group(stages, names, Text(self._counts()), bar)  # the bar last: it ends no line


def duration(seconds: float) -> str:
    """Seconds as text: `4 s`, `1 min 1 s`, `2 h 0 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
