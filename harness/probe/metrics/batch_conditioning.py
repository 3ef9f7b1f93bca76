"""The ratio of condition numbers as mini-batches would give it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, PositiveInt

from harness.metric import Quantity, Value
from harness.probe.model import Extractor
from harness.probe.plugin import ProbeMetric, ReleasedData
from harness.probe.spectrum import Policy, Spectrum

_VARIANT = "the κ policy and the rows of a batch."
_BATCHES = "Batches of the same training rows for I and θ, drawn without replacement, the same for all defenses."
RESAMPLES = 2000
"""Bootstrap samples of an interval."""


class BatchConditioning(ProbeMetric):
    """RIR from mini-batches, with a bootstrap interval (Efron, 1979) and its ratio to RIR of all rows."""

    deterministic = True
    quantities = (
        Quantity(
            name="batch_rir",
            title="RIR of batches",
            better="higher",
            scale="log",
            description="geometric mean of RIR over mini-batches",
            formula="exp of the mean over batches of ln RIR (ICML 2025, Eq. 15) on the rows of a batch. " + _BATCHES,
            variant=_VARIANT,
            limits="With fewer rows than features the Hessian of a batch is singular, so κ under floor is σ₁/1e-6.",
        ),
        Quantity(
            name="batch_rir_low",
            title="RIR of batches, low",
            scale="log",
            description="lower end of the 95 % bootstrap interval of batch_rir",
            formula="2.5 % quantile of batch_rir over batches drawn with replacement from the measured ones.",
            variant=_VARIANT,
            limits="The interval is for other batches of these rows, not for other rows or seeds.",
        ),
        Quantity(
            name="batch_rir_high",
            title="RIR of batches, high",
            scale="log",
            description="upper end of the 95 % bootstrap interval of batch_rir",
            formula="97.5 % quantile of batch_rir over batches drawn with replacement from the measured ones.",
            variant=_VARIANT,
            limits="The interval is for other batches of these rows, not for other rows or seeds.",
        ),
        Quantity(
            name="batch_rir_bias",
            title="bias of batches",
            scale="log",
            description="RIR of mini-batches over RIR of all training rows",
            formula="batch_rir / RIR of all training rows under the same κ policy.",
            variant=_VARIANT,
            limits="1 does not mean that either value is a condition number.",
        ),
    )

    policies: tuple[Literal["floor", "range"], ...] = Field(("floor", "range"), min_length=1, description="κ policies")
    rows: tuple[PositiveInt, ...] = Field((50, 100, 500), min_length=1, description="rows of a batch")
    batches: int = Field(20, ge=2, description="number of batches of each size")

    def measure(self, model: Extractor, data: ReleasedData) -> Iterator[Value]:
        """Yield the ratio, its interval and its bias for each κ policy and size of batch. A size above the number of
        rows of a task is left out."""
        generator = torch.Generator().manual_seed(0)
        tasks = {"benign": data.benign.x, "harmful": data.harmful.x}
        fewest = min(map(len, tasks.values()))
        undefended = Extractor(tasks["benign"].shape[1])
        whole = self._log_rirs(model, undefended, {role: [x] for role, x in tasks.items()})
        for rows in (size for size in self.rows if size <= fewest):
            drawn = {
                role: [x[torch.randperm(len(x), generator=generator)[:rows]] for _ in range(self.batches)]
                for role, x in tasks.items()
            }
            logs = self._log_rirs(model, undefended, drawn)
            picks = torch.randint(self.batches, (RESAMPLES, self.batches), generator=generator)
            for kappa, values in logs.items():
                low, high = values[picks].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
                mean = float(values.mean())
                bias = mean - float(whole[kappa])
                for name, log in (("", mean), ("_low", low), ("_high", high), ("_bias", bias)):
                    number = math.exp(log) if math.isfinite(log) else None
                    yield self.value(number, f"batch_rir{name}", variant=f"{kappa} {rows} rows", split="train")

    @torch.no_grad()
    def _log_rirs(
        self, model: Extractor, undefended: Extractor, batches: dict[str, list[torch.Tensor]]
    ) -> dict[Policy, torch.Tensor]:
        """By κ policy, ln RIR of each batch (batches). batches: by role, inputs (rows, dim) of each batch."""
        spectra = {
            (role, base): [Spectrum.of(extractor(x)) for x in inputs]
            for role, inputs in batches.items()
            for base, extractor in ((False, model), (True, undefended))
        }
        rirs: dict[Policy, torch.Tensor] = {}
        for policy in self.policies:
            logs = {
                place: torch.tensor([math.log(one.kappa(policy)) for one in found], dtype=torch.float64)
                for place, found in spectra.items()
            }
            harmful, benign = (logs[role, False] - logs[role, True] for role in ("harmful", "benign"))
            rirs[policy] = harmful - benign
        return rirs
