"""MIMA, which immunizes against several concepts by differentiating through the merging of models."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from harness.diffusion import Batch, Merge, MergingDefense, Targets, TextToImage, Weights, small_presets


class Mima(MergingDefense):
    """Multi-concept immunization by differentiable model merging (MIMA, AAAI 2025).

    Each concept adapts the weights by its own steps of descent; the keys and values so adapted are merged by a layer
    that keeps what each concept's words mean (see `harness.diffusion.merge`), all else by the mean; the merged
    model's loss on the concepts is ascended.

    mode paper: differentiates through merge and descent, and the merge's W^p are the weights before the defense;
    paper-current: W^p are the weights of now, as in the released code. released: what that code does: it alternates
    a descent that is merged into the weights themselves with a plain step of ascent, differentiates through neither,
    takes the rows of C from the class prompts (where each concept has its own, else from the targets') and draws the
    captions anew at every step. Its fault of training on the last concept alone is not taken over.
    """

    name = "mima"
    presets: ClassVar = small_presets(styles=1e-3, objects=6e-4, personal=1e-3, inner_lr=1.0)

    mode: Literal["paper", "paper-current", "released"] = Field("paper", description="see above")
    captions: int = Field(200, ge=1, description="captions for C_reg: the first of the file; released: so many drawn")

    def combine(self, model: TextToImage, targets: Targets) -> Callable[[Weights], Weights]:
        """Merge for keys and values, mean for the rest."""
        return self._combined(model, self.merge(model, targets))

    def harms(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """The merged model's loss."""
        if self.mode != "released":
            yield from super().harms(model, targets)
        classes = [(subject.concept.class_prompt, "") for subject in targets]
        prompts = classes if len(set(classes)) == len(classes) else self.named(targets)
        named, batches = dict(model.unet.named_parameters()), self.batches(targets)
        draw = torch.Generator().manual_seed(targets.seed)
        while True:
            drawn = torch.randint(len(targets.captions), (self.captions,), generator=draw)
            merge = self.merge_of(model, targets, prompts, [targets.captions[i] for i in drawn])
            combined = self._combined(model, merge)(self.descent(model, batches, first_order=True))
            with torch.no_grad():
                for name, weight in combined.items():
                    named[name].copy_(weight)
            yield model.denoising_loss(Batch.join(next(batches)))

    def _combined(self, model: TextToImage, merge: Merge) -> Callable[[Weights], Weights]:
        pretrained: Weights = model.weights("keys_values")
        if self.mode == "paper":
            pretrained = {name: weight.detach().clone() for name, weight in pretrained.items()}

        def combined(adapted: Weights) -> Weights:
            rest = {name: weight.mean(0) for name, weight in adapted.items() if name not in pretrained}
            return rest | merge.merged(pretrained, adapted)

        return combined
