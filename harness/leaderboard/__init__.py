"""From records to the tables that people read."""

from harness.leaderboard.long_form import PUBLISHED_SCHEMA, board, read_published
from harness.leaderboard.making import PUBLISHED, RECORDS, Boards, draw, make, render, write

__all__ = [
    "PUBLISHED", "PUBLISHED_SCHEMA", "RECORDS", "Boards", "board", "draw", "make", "read_published", "render", "write",
]  # fmt: skip
