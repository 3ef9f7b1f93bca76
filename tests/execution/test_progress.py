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
    """`displayed(terminal)`: what a run writes that computes half of the jobs, of which two fail for one reason."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)

    def display(terminal: bool, width: int = 120, quiet: bool = False) -> str:
        made = plan()
        console = Console(file=io.StringIO(), force_terminal=terminal, width=width, height=40)
        jobs = list(made.jobs.items())[: len(made.jobs) // 2]
        estimates = Estimates()
        for _, job in jobs:
            estimates.add(job.about, 100.0)
        with progress.Display(console, quiet) as shown:
            shown.began(made, dict(jobs), estimates, 2)
            for number, (key, job) in enumerate(jobs):
                shown.started(job)
                if terminal:
                    console.print(shown.render())
                reason = "it [broke]" if number in (1, 2) else None
                shown.finished(job, Outcome(key, reason, seconds=None if reason else 100.0, peak_mb=321.0))
        return console.file.getvalue()

    return display


def test_lines_where_there_is_no_terminal(displayed):
    lines = displayed(False).splitlines()
    assert "\x1b" not in "".join(lines)
    assert sum(line.startswith("failed: ") and line.endswith(": it [broke]") for line in lines) == 1
    counts = [line for line in lines if " jobs, " in line]
    total = len(counts)
    assert counts[-1].startswith(f"{total} of {total} jobs, 2 failed, ")
    assert " from the store" in counts[0]
    minutes, seconds = divmod(round((total - 1) * 100 / 2), 60)
    assert f"{minutes} min {seconds} s left" in counts[0]


def test_a_live_table_on_a_terminal(displayed):
    for width in (80, 100, 120):
        text = displayed(True, width)
        for word in ("adapt", "measure", "s per job", "100", "321", "2 failed", "from the store", "s left\n", "none"):
            assert word in text


def test_a_quiet_run_says_only_what_failed(displayed):
    (line,) = displayed(False, quiet=True).splitlines()
    assert line.startswith("failed: ")


def test_the_bar_counts_seconds_and_the_time_left_is_a_bound_where_a_stage_is_unknown():
    made = plan()
    attacks, others = [], []
    for job in made.jobs.values():
        (attacks if job.plugin and job.plugin.kind == "attacker" else others).append(job)
    estimates = Estimates()
    estimates.add(attacks[0].about, 30 * attacks[0].work)
    shown = progress.Display(Console(file=io.StringIO()))
    shown.began(made, {job.key: job for job in [*attacks, others[-1]]}, estimates, 1)
    shown.finished(attacks[0], Outcome(attacks[0].key, None, seconds=30.0, peak_mb=1.0))
    shown._estimate()
    left = 30.0 * (len(attacks) - 1)
    assert shown._time_left == f", at least {progress.duration(left)} left"
    assert shown._share == pytest.approx(30 / (30 + left + 30))


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (61, "1 min 1 s"), (7199.7, "2 h 0 min"), (90061, "25 h 1 min")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text
