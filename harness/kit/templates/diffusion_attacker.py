"""The attacker plugin_name."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.diffusion import ConceptData, DiffusionAttacker, TextToImage


class PluginName(DiffusionAttacker):
    """Fine-tuning of the cross-attention alone (Kumari et al., 2023).

    Replace it by your method and its source.
    """

    lr: float = Field(3e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures a step")

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """The weights to train; the conformance kit checks that nothing else changes."""
        return list(model.weights("cross_attention").values())

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[torch.Tensor]:
        """One step at a time, without end: the harness counts, measures and stops."""
        optimiser = torch.optim.AdamW(model.unfreeze(self.weights(model)), lr=self.lr)
        for batch in data.batches(self.prompt(data.concept), self.batch_size):
            loss = model.denoising_loss(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield loss.detach()
