"""Deterministic surroundings for a job."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # the CPU by name would slow down every call


class _Setting(NamedTuple):
    """A setting of the whole process. value: for jobs."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    value: Any


def _flag(module: Any, name: str, value: bool) -> _Setting:
    return _Setting(lambda: getattr(module, name), lambda flag: setattr(module, name, flag), value)


_SETTINGS = (
    _Setting(torch.get_num_threads, torch.set_num_threads, 1),
    _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    _Setting(torch.get_default_device, _set_default_device, torch.device("cpu")),
    _flag(torch.backends.cuda.matmul, "allow_tf32", False),
    _flag(torch.backends.cudnn, "deterministic", True),
    _flag(torch.backends.cudnn, "benchmark", False),
    _Setting(torch.is_grad_enabled, torch.set_grad_enabled, True),
    _Setting(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, False),
)
_NUMPY_ERRORS: Any = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Use one torch thread, set the defaults of torch and numpy, and start all global random generators from `seed`, so
    that neither where a job runs nor what ran before changes anything. Restores the settings after the block."""
    before = [setting.read() for setting in _SETTINGS]
    _set([setting.value for setting in _SETTINGS])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        with np.errstate(**_NUMPY_ERRORS):
            yield
    finally:
        _set(before)


def _set(values: Sequence[Any]) -> None:
    for setting, value in zip(_SETTINGS, values, strict=True):
        if setting.read() != value:  # some writes import much of torch
            setting.write(value)
