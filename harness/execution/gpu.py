"""The GPUs of this machine, and how worker processes share them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"

_locks: list[FileLock] = []
"""Locks on GPUs, held until this process ends."""


def count() -> int:
    """How many GPUs torch can use here."""
    import torch

    return torch.cuda.device_count()


def claim(gpus: int) -> None:
    """Pin this process to one of `gpus` GPUs, before CUDA starts: the first that no worker of any run on this machine
    has claimed, or any of them if all are claimed."""
    devices = (os.environ.get(VISIBLE) or ",".join(map(str, range(gpus)))).split(",")
    os.environ[VISIBLE] = devices[os.getpid() % len(devices)]
    for device in devices:
        lock = FileLock(Path(tempfile.gettempdir()) / f"immunebench-gpu-{device}.lock", mode=0o666)
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            _locks.append(lock)
            os.environ[VISIBLE] = device
            return
