"""The progress display of a run."""

import io

import pytest
from rich.console import Console

from harness.execution import progress
from harness.execution.estimates import Estimates
from harness.execution.worker import Outcome
from tests.runs import plan


@pytest.fixture
def displayed(monkeypatch):
    """`displayed(terminal)`: what a run writes that computes half of the jobs, of which one fails."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)

    def display(terminal: bool) -> str:
        made = plan()
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, height=40)
        jobs = list(made.jobs.items())[: len(made.jobs) // 2]
        estimates = Estimates()
        for _, job in jobs:
            estimates.add(job.about, 100.0)
        with progress.Display(console) as shown:
            shown.began(made, dict(jobs), estimates, 2)
            for number, (key, job) in enumerate(jobs):
                shown.started(job)
                if terminal:
                    console.print(shown.render())
                reason = "it [broke]" if number == 1 else None
                shown.finished(job, Outcome(key, reason, seconds=None if reason else 100.0, peak_mb=321.0))
        return console.file.getvalue()

    return display


def test_lines_where_there_is_no_terminal(displayed):
    lines = displayed(False).splitlines()
    assert "\x1b" not in "".join(lines)
    assert sum(line.startswith("failed: ") and line.endswith(": it [broke]") for line in lines) == 1
    counts = [line for line in lines if " jobs, " in line]
    total = len(counts)
    assert counts[-1].startswith(f"{total} of {total} jobs, 1 failed, ")
    assert " from the store" in counts[0]
    minutes, seconds = divmod(round((total - 1) * 100 / 2), 60)
    assert f"{minutes} min {seconds} s left" in counts[0]


def test_a_live_table_on_a_terminal(displayed):
    text = displayed(True)
    for word in ("adapt", "measure", "s per job", "100", "321", "1 failed", "left", "none"):
        assert word in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (61, "1 min 1 s"), (7199.7, "2 h 0 min"), (90061, "25 h 1 min")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text
