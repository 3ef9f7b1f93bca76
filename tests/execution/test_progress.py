"""What is shown of a run while it goes on."""

import io

import pytest
from rich.console import Console

from harness.execution import progress as display
from harness.execution.costs import Costs
from harness.execution.scheduler import Outcome
from harness.plan import make
from harness.suite import load


@pytest.fixture
def shown(tiny, monkeypatch):
    """`shown(terminal)`: what a run of the tiny suite, half of it there, of which one job fails, writes."""
    monkeypatch.setattr(display, "EVERY", 0)

    def show(terminal: bool) -> str:
        plan = make(load(str(tiny)))
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, height=40)
        jobs = list(plan.jobs.items())[: len(plan.jobs) // 2]
        costs = Costs()
        for _, job in jobs:
            costs.add(job.about, 100.0)
        with display.Display(console) as shows:
            shows.began(plan, dict(jobs), costs, 2)
            for number, (key, job) in enumerate(jobs):
                shows.started(job)
                if terminal:
                    console.print(shows._render())
                reason = "it [broke]" if number == 1 else None
                shows.finished(job, Outcome(key, reason, seconds=None if reason else 100.0, peak_mb=321.0))
        return console.file.getvalue()

    return show


def test_lines_where_there_is_no_terminal(shown):
    lines = shown(False).splitlines()
    assert "\x1b" not in "".join(lines)
    assert sum(line.startswith("failed: ") and line.endswith(": it [broke]") for line in lines) == 1
    counts = [line for line in lines if " jobs, " in line]
    total = len(counts)
    assert counts[-1].startswith(f"{total} of {total} jobs, 1 failed, ")
    assert " shared" in counts[0]
    minutes, seconds = divmod(round((total - 1) * 100 / 2), 60)
    assert f"{minutes} min {seconds} s left" in counts[0]


def test_a_live_table_on_a_terminal(shown):
    told = shown(True)
    for word in ("immunize", "spectrum", "s a job", "100", "321", "1 failed", "left", "house_prices"):
        assert word in told


@pytest.mark.parametrize(
    ("seconds", "told"), [(4.4, "4 s"), (61, "1 min 1 s"), (7199.7, "2 h 0 min"), (90061, "25 h 1 min")]
)
def test_durations(seconds, told):
    assert display.duration(seconds) == told
