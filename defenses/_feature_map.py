"""Applies a defense of linear extractors to the features of a deep network, and undoes its map in the head."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.deep import DeepDefense, DeepTargets, Released, Rows, in_parts
from harness.probe import Extractor, ProbeDefense, ProbeTargets, Split


class FeatureMap(DeepDefense):
    """Multiplies the features by the map of a linear defense, and the head by its inverse: benign outputs are kept."""

    def linear(self) -> ProbeDefense:
        """The linear defense."""
        raise NotImplementedError

    def immunize(self, model: Released, targets: DeepTargets) -> Iterator[float]:
        """Compute the map on the features of as many rows of each task, in float64, and apply it."""
        rows = min(len(targets.benign), len(targets.harmful))
        draw = targets.generator()
        benign, harmful = (_features(model, task, rows, draw) for task in (targets.benign, targets.harmful))
        extractor = Extractor(benign.x.shape[1])
        for loss in self.linear().immunize(extractor, ProbeTargets(benign, harmful, seed=targets.seed)):
            yield float(loss)
        model.apply_map(extractor.weight.detach().T)


def _features(model: Released, task: Rows, count: int, draw: torch.Generator) -> Split:
    """The features of `count` random rows of a task, float64."""
    part = task.take(torch.randperm(len(task), generator=draw)[:count])
    return Split(in_parts(model.tail, part.x).double(), part.y.double())
