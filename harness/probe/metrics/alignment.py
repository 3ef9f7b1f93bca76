"""Whether the benign and the harmful features share their leading directions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch
from pydantic import Field

from harness.metric import Quantity, Value
from harness.probe.model import Extractor
from harness.probe.plugin import ProbeMetric, ReleasedData


class Alignment(ProbeMetric):
    """Principal angles of both tasks' leading subspaces (Björck & Golub, 1973), and the Hessians' commutator."""

    deterministic = True
    quantities = (
        Quantity(
            name="subspace_overlap",
            title="subspace overlap",
            description="mean squared cosine of the principal angles between the leading subspaces of both tasks",
            formula="‖V_Pᵀ V_H‖_F² / min(r_P, r_H): V_P, V_H the leading eigenvectors of H_P(θ) and H_H(θ) on the "
            "training rows, r the smallest number of them whose eigenvalues have the share of the trace that the "
            "variant names.",
            variant="energy: the share of the trace, in percent.",
            limits="1 where the smaller subspace lies in the larger one, which a task of high rank makes likely. It "
            "does not show which of the two tasks has the larger eigenvalues in the shared subspace.",
        ),
        Quantity(
            name="subspace_rank",
            title="subspace rank",
            description="number of leading eigenvectors whose eigenvalues have a share of the trace",
            formula="r of subspace_overlap.",
            variant="energy: the share of the trace, in percent.",
            limits="It changes in whole steps, so a small change of the features can move it by one.",
        ),
        Quantity(
            name="commutator",
            title="commutator",
            description="how far the Hessians of both tasks are from having the same eigenvectors",
            formula="‖H_P H_H − H_H H_P‖_F / (‖H_P‖_F ‖H_H‖_F), between 0 and √2; on the training rows.",
            limits="It is small where one direction dominates both tasks, whatever the others do.",
        ),
    )

    energies: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        (90.0, 99.0), min_length=1, description="shares of the trace, in percent"
    )

    def measure(self, model: Extractor, data: ReleasedData) -> Iterator[Value]:
        """Yield the overlap and ranks at each share of the trace, and the commutator, on training rows; no number for
        the commutator of features that are all zero."""
        hessians = [features.T @ features for features in (model.features(s).x for s in (data.benign, data.harmful))]
        spectra = [torch.linalg.eigh(hessian) for hessian in hessians]
        for energy in self.energies:
            benign, harmful = (_leading(values, vectors, energy / 100) for values, vectors in spectra)
            value = partial(self.value, variant=f"{energy:g}", split="train")
            for role, space in (("benign", benign), ("harmful", harmful)):
                yield value(float(space.shape[1]), "subspace_rank", role=role)
            smaller = min(benign.shape[1], harmful.shape[1])
            yield value(float((benign.T @ harmful).square().sum()) / smaller, "subspace_overlap")
        norms = float(hessians[0].norm() * hessians[1].norm())
        product = hessians[0] @ hessians[1]
        yield self.value(float((product - product.T).norm()) / norms if norms else None, "commutator", split="train")


def _leading(eigenvalues: torch.Tensor, vectors: torch.Tensor, share: float) -> torch.Tensor:
    """The fewest leading eigenvectors (dim, r) whose eigenvalues sum to `share` of the trace. eigenvalues: (dim),
    ascending. vectors: (dim, dim), as columns."""
    sums = eigenvalues.flip(0).clamp(min=0).cumsum(0)
    return vectors.flip(1)[:, : int((sums < share * sums[-1]).sum()) + 1]
