"""A board of many records, for a process that does nothing else and so has no other memory: torch is not imported."""

import re
import time
from itertools import product
from pathlib import Path

from harness.leaderboard import boards
from tests.leaderboard.builders import asr, build


def board_of(count: int) -> dict[str, float]:
    """Make the board of `count` records of five defenses, two attackers, 1000 tasks and five seeds. Returns the seconds
    that it takes, and the process's peak memory in MiB, once the records are there and in the end."""
    steps = range(1, count // 50_000 + 1)
    numbers = product(("none", "ascent", "c", "d", "e"), "ab", range(1000), (1, 2, 3, 4, 5), steps)
    records = build(
        asr(*at, str(task), seed, (task * seed * step % 97) / 97, step=step) for *at, task, seed, step in numbers
    )
    assert len(records.frame) == count
    before, start = peak(), time.perf_counter()
    assert len(boards.make(records).long) > 0
    return {"board_seconds": time.perf_counter() - start, "records_mib": before, "peak_mib": peak()}


def peak() -> float:
    """The peak memory of this process, in MiB."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return int(peak[1]) / 1024
