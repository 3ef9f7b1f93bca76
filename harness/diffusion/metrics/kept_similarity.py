"""Similarity of the released model's pictures of concepts to keep to the undefended model's pictures."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import ClassVar

from harness.diffusion.metrics.similarity import SIMILARITY
from harness.diffusion.model import TextToImage
from harness.diffusion.plugin import DiffusionMetric
from harness.diffusion.views import ReleasedData
from harness.metric import Value


class KeptSimilarity(DiffusionMetric):
    """M (MIMA, AAAI 2025) of concepts to keep: the released model's pictures against the undefended model's."""

    deterministic = True
    quantities: ClassVar = (SIMILARITY,)

    def measure(self, model: TextToImage, data: ReleasedData) -> Iterator[Value]:
        """Yield the mean over concepts, by split and encoder."""
        for split, (mine, undefended) in data.bystanders.items():
            lost = int((~mine.finite).sum())
            flaw = f"{lost} pictures of kept concepts are not finite" if lost else None
            for name, encoder in data.encoders.items():
                pairs = zip(mine.embeddings[name], undefended.embeddings[name], strict=True)
                mean = fmean(encoder.paired(a, b) for a, b in pairs)
                if flaw:
                    yield self.value(None, role="kept", variant=name, split=split, note=flaw)
                else:
                    yield self.value(mean, role="kept", variant=name, split=split)
