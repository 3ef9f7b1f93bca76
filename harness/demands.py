"""What jobs need, counted before they run, and what devices have to offer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHARE = 0.75
"""Share of a device's peak throughput that large operations are taken to reach: on one H100, drawing pictures of
512×512 pixels in fp32 reached .84 (docs/pages/scale.md)."""
LAUNCH = 12e-6
"""Seconds for a kernel, however small, measured on the same machine in training: the processor starts kernels one after
the other."""


@dataclass(frozen=True)
class Work:
    """Arithmetic. flops: floating-point operations. kernels: number of the operations that a device starts."""

    flops: float = 0.0
    kernels: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.kernels + other.kernels)

    def __sub__(self, other: Work) -> Work:
        return self + -1 * other

    def __rmul__(self, times: float) -> Work:
        return Work(times * self.flops, times * self.kernels)


@dataclass(frozen=True)
class Device:
    """A device. memory: in GB. tflops: its peak throughput for dense matrix products in TFLOP/s, by precision, as its
    vendor states it; a precision that it lacks has the throughput of fp32."""

    title: str
    memory: float
    tflops: dict[str, float]

    def hours(self, work: Work, precision: str) -> float:
        """Hours for `work` in a precision (fp32, tf32, bf16, fp16): for the operations at the share `SHARE`, or for
        starting the kernels if that takes longer."""
        tflops = self.tflops.get(precision, self.tflops["fp32"])
        return max(work.flops / (tflops * 1e12 * SHARE), work.kernels * LAUNCH) / 3600


def _device(title: str, memory: float, fp32: float, tf32: float | None, fp16: float, bf16: bool = True) -> Device:
    tflops = {"fp32": fp32, "fp16": fp16, **({"tf32": tf32} if tf32 else {}), **({"bf16": fp16} if bf16 else {})}
    return Device(title, memory, tflops)


DEVICES = {
    "A100": _device("NVIDIA A100 80 GB", 80, 19.5, 156, 312),
    "A100-40": _device("NVIDIA A100 40 GB", 40, 19.5, 156, 312),
    "H100": _device("NVIDIA H100 SXM", 80, 67, 494, 989),
    "L40S": _device("NVIDIA L40S", 48, 91.6, 183, 362),
    "RTX4090": _device("NVIDIA RTX 4090", 24, 82.6, 82.6, 165),
    "RTX3090": _device("NVIDIA RTX 3090", 24, 35.6, 35.6, 71),
    "V100": _device("NVIDIA V100 32 GB", 32, 15.7, None, 125, bf16=False),
    "T4": _device("NVIDIA T4", 16, 8.1, None, 65, bf16=False),
}
"""Devices by name."""


@dataclass(frozen=True)
class Demand:
    """What jobs of one kind need.

    what: the kind. jobs: their number. precision: of their arithmetic. work: the arithmetic of all of them. peak:
    highest memory of one of them, in bytes; both None: not counted, for the reason `note`. kept, transient: bytes of
    artifacts that stay on disk, and of those that are deleted when no job needs them any more.
    """

    what: str
    jobs: int
    precision: str = "fp32"
    work: Work | None = Work()
    peak: int | None = 0
    kept: int = 0
    transient: int = 0
    note: str = ""


def lines(demands: Iterable[Demand], device: Device, workers: int = 1) -> list[str]:
    """Lines of text with the hours, the memory and the space on disk of `demands` on `workers` of `device`."""
    every = list(demands)
    counted = [demand for demand in every if demand.work is not None and demand.peak is not None]
    hours = {demand: device.hours(demand.work or Work(), demand.precision) for demand in counted}
    result = []
    for demand in every:
        need = f"not counted: {demand.note}"
        if demand.work is not None and demand in hours:
            need = f"{(demand.peak or 0) / 1e9:6.1f} GB {demand.work.flops / 1e15:12.1f} PFLOP {hours[demand]:9.2f} h"
        result.append(f"  {demand.what:32} {demand.jobs:6} jobs {need}")
    kept, transient = (sum(getattr(demand, name) for demand in every) / 1e9 for name in ("kept", "transient"))
    peak = max((demand.peak or 0 for demand in counted), default=0) / 1e9
    fits = "fits" if peak <= device.memory else "does NOT fit"
    result += [
        f"on {workers} × {device.title}, at {SHARE:.0%} of its peak throughput or {LAUNCH * 1e6:.0f} µs a kernel: "
        f"{sum(hours.values()) / workers:.1f} h; encoders that measure pictures are left out",
        f"memory: {peak:.1f} GB at most, without workspaces of kernels ({fits} in {device.memory:.0f} GB)",
        f"disk: {kept:.1f} GB kept, and of {transient:.1f} GB as much as is in use at a time",
    ]
    return result
