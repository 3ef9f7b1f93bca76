"""Text-to-image models with a U-Net that reads text: prompts, latents, the denoising loss and sampling."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from torch.func import functional_call
from torch.nn import functional

from harness.diffusion.base import FAMILIES, Text
from harness.diffusion.base_model import load_pipeline
from harness.diffusion.checkpointing import checkpointed
from harness.diffusion.loss_scaling import LossScaling
from harness.errors import RunError
from harness.meter import count_gradient

Images = npt.NDArray[np.uint8]
"""Pictures, (n, height, width, 3) uint8, RGB."""

WeightSet = Literal["keys_values", "cross_attention", "attention", "unet"]
"""A set of the U-Net's weights. keys_values: key and value projections of the cross-attention; cross_attention: all of
the cross-attention; attention: cross-attention and self-attention; unet: all weights."""
KEYS_VALUES = (".attn2.to_k.", ".attn2.to_v.")
"""Parts of the names of the cross-attention's key and value projections."""
_NAME_PARTS: Mapping[WeightSet, tuple[str, ...]] = {
    "keys_values": KEYS_VALUES,
    "cross_attention": (".attn2.",),
    "attention": (".attn1.", ".attn2."),
    "unet": ("",),
}


@dataclass(frozen=True)
class Batch:
    """The inputs of one denoising loss.

    latents, noise: (n, channels, height, width). prompts: n texts. times: time steps, (n,) int64. weights: weights of
    the rows in the loss, (n,); None: ones.
    """

    latents: torch.Tensor
    prompts: Sequence[str]
    noise: torch.Tensor
    times: torch.Tensor
    weights: torch.Tensor | None = None

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """One batch with the rows of all `batches`, which must have no weights."""
        latents, noise, times = (torch.cat([getattr(batch, name) for batch in batches]) for name in _ROWS)
        return cls(latents, [prompt for batch in batches for prompt in batch.prompts], noise, times)

    def split(self) -> list[Batch]:
        """A batch of each row."""
        parts = zip(*(getattr(self, name).split(1) for name in _ROWS), strict=True)
        weights = [None] * len(self.prompts) if self.weights is None else self.weights.split(1)
        return [
            Batch(latents, [prompt], noise, times, weight)
            for (latents, noise, times), prompt, weight in zip(parts, self.prompts, weights, strict=True)
        ]


_ROWS = ("latents", "noise", "times")
PIXELS_AT_ONCE = 4 * 512 * 512
"""Pixels that the autoencoder encodes or decodes at once: its memory grows with them (about 0.6 GB for
each 512×512 in float32, by arithmetic)."""


class TextToImage:
    """A text-to-image pipeline with the operations that attackers and defenses need.

    pipeline: a pipeline of diffusers, of one of the `FAMILIES`; all its weights are frozen at first. Raises `RunError`
    if its U-Net has no cross-attention.
    """

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline
        self.family = FAMILIES[type(pipeline).__name__]
        self.unet, self.text_encoder, self.vae = pipeline.unet, pipeline.text_encoder, pipeline.vae
        self.tokenizer = pipeline.tokenizer
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)  # samplers may scale noise otherwise
        self.text_encoders = {part: getattr(pipeline, part) for part in self.family.encoders}
        self.freeze()
        if not cross_attention(self.unet):
            raise RunError("this pipeline's U-Net has no cross-attention, so it reads no text to erase or attack")
        self._texts: dict[str, Text] = {}

    @classmethod
    def load(cls, base: str, precision: str = "fp32") -> TextToImage:
        """Load a pipeline onto the first GPU, or the CPU if there is none.

        See `harness.diffusion.base_model.load_pipeline` for `base`, `precision` and what is raised.
        """
        return cls(load_pipeline(base, precision).to("cuda" if torch.cuda.is_available() else "cpu"))

    def copy(self) -> TextToImage:
        """A copy with its own weights."""
        parts = {name: copy.deepcopy(part) for name, part in self.pipeline.components.items()}
        return TextToImage(self.family.pipeline(**parts, **self.family.making(self.pipeline)))

    def checkpoint(self) -> None:
        """Let the U-Net's blocks compute their activations again in the backward pass (see
        `harness.diffusion.checkpointing`): less memory, more time, the same gradients."""
        self.unet.enable_gradient_checkpointing(gradient_checkpointing_func=checkpointed)

    @property
    def checkpointing(self) -> bool:
        """Whether to save memory at the cost of time: `checkpoint` was called."""
        return bool(self.unet.is_gradient_checkpointing)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.unet.parameters()).device  # diffusers' property visits all modules, which takes milliseconds

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights; trained weights are float32."""
        return next(self.vae.parameters()).dtype

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """A context for forward passes: mixed precision if the frozen weights are in half precision, because trained
        weights are float32."""
        if _is_half(self.dtype):
            return torch.autocast(self.device.type, self.dtype)
        return contextlib.nullcontext()

    def weights(self, which: WeightSet) -> dict[str, torch.nn.Parameter]:
        """The U-Net's weights in the set `which`, by name, in the U-Net's order."""
        named = self.unet.named_parameters()
        return {name: weight for name, weight in named if any(part in name for part in _NAME_PARTS[which])}

    def freeze(self) -> None:
        """Freeze all weights."""
        for module in (self.unet, *self.text_encoders.values(), self.vae):
            module.requires_grad_(False).eval()
            module.zero_grad()

    def unfreeze(self, parameters: Sequence[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
        """Make `parameters` trainable, converting half precision to float32; returns them."""
        for parameter in parameters:
            if _is_half(parameter.dtype):
                parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        return list(parameters)

    def tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """Token ids (n, length) of `prompts`; raises `RunError` for a prompt longer than the text encoder's limit."""
        return self._tokens(self.tokenizer, prompts)

    def _tokens(self, tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
        length = tokenizer.model_max_length
        numbers = tokenizer(list(prompts)).input_ids
        for prompt, row in zip(prompts, numbers, strict=True):
            if len(row) > length:
                raise RunError(
                    f"the prompt '{prompt}' has {len(row) - 2} tokens; this base model reads at most {length - 2}: "
                    "shorten it"
                )
        padded = tokenizer(list(prompts), padding="max_length", max_length=length, return_tensors="pt")
        return padded.input_ids.to(self.device)

    def text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text embeddings (n, length, width) of `prompts`; cached while the text encoders are frozen."""
        return self._text(prompts).rows

    def _text(self, prompts: Sequence[str], scaling: LossScaling | None = None) -> Text:
        encoders = self.text_encoders.values()
        if any(parameter.requires_grad for encoder in encoders for parameter in encoder.parameters()):
            for encoder in encoders:
                encoder.float()  # on a CPU its layers refuse inputs of another precision
            return self._read(prompts, scaling)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if new:
            with torch.no_grad():
                read = self._read(new)
            parts = (read.rows, [None] * len(new) if read.pooled is None else read.pooled)
            self._texts |= zip(new, map(Text, *parts), strict=True)
        texts = [self._texts[prompt] for prompt in prompts]
        pooled = [text.pooled for text in texts if text.pooled is not None]
        return Text(torch.stack([text.rows for text in texts]), torch.stack(pooled) if pooled else None)

    def _read(self, prompts: Sequence[str], scaling: LossScaling | None = None) -> Text:
        """What the text encoders make of `prompts`."""
        outputs = []
        for part, encoder in self.family.encoders.items():
            tokens = self._tokens(getattr(self.pipeline, encoder.tokenizer), prompts)
            outputs.append(_call(self.text_encoders[part], (tokens,), {}, scaling, **self.family.reading))
        return self.family.read(outputs)

    @torch.no_grad()
    def encode(self, images: Images) -> torch.Tensor:
        """Scaled latents (n, channels, height, width) of `images` (n, height, width, 3): the mode of the posterior."""
        parts = torch.from_numpy(np.ascontiguousarray(images)).split(_rows_at_once(*images.shape[1:3]))
        modes = [self.vae.encode(as_pixels(part).to(self.device, self.dtype)).latent_dist.mode() for part in parts]
        return (torch.cat(modes) * self.vae.config.scaling_factor).float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> Images:
        """Images (n, height, width, 3) of the scaled `latents` (n, channels, height, width)."""
        return np.concatenate([as_images(pixels) for pixels in self._decoded(latents)])

    def _decoded(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the pixels (rows, 3, height, width) of the scaled `latents`, a few pictures at a time."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.device, self.dtype)
        return (self.vae.decode(part).sample for part in scaled.split(_rows_at_once(*self._size(latents))))

    def _size(self, latents: torch.Tensor) -> tuple[int, int]:
        """Height and width of the pictures of `latents`."""
        height, width = (side * self.pipeline.vae_scale_factor for side in latents.shape[2:])
        return height, width

    def predictions(self, batch: Batch, weights: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The U-Net's predictions (n, channels, height, width) for the noised rows of `batch`: of the noise or the
        velocity, as the scheduler says.

        weights: U-Net weights by name that replace the U-Net's own in this call; the predictions are differentiable
        with respect to them. Where torch records gradients, the call counts as one gradient evaluation (see
        `harness.meter.count_gradient`).
        """
        if torch.is_grad_enabled():
            count_gradient(len(batch.latents))
        latents, noise, times = (x.to(self.device) for x in (batch.latents, batch.noise, batch.times))
        scaling = LossScaling.of(latents.numel()) if self.dtype == torch.float16 else None
        with self.computing():
            text = self._text(batch.prompts, scaling).to(self.dtype)
            noisy = self.scheduler.add_noise(latents, noise, times)
            if scaling:
                noisy = scaling.entering(noisy)
            further = self.family.conditions(text, self._size(latents))
            inputs = (noisy.to(self.dtype), times, text.rows)
            predicted = _call(self.unet, inputs, weights or {}, scaling, **further).sample.to(latents.dtype)
        return scaling.leaving(predicted) if scaling else predicted

    def denoising_losses(self, batch: Batch, weights: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The denoising losses (n,) of the rows of `batch`, times the batch's weights: mean squared errors of the
        U-Net's predictions of the scheduler's target (Ho et al., 2020, Eq. 14). See `predictions` for `weights` and
        for what counts as a gradient evaluation."""
        predicted = self.predictions(batch, weights)
        target = denoising_target(
            self.scheduler, *(x.to(self.device) for x in (batch.latents, batch.noise, batch.times))
        )
        losses = functional.mse_loss(predicted, target, reduction="none").mean((1, 2, 3))
        return losses if batch.weights is None else losses * batch.weights.to(self.device)

    def denoising_loss(self, batch: Batch, weights: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The mean denoising loss of `batch`, a scalar; see `denoising_losses` for `weights`."""
        return self.denoising_losses(batch, weights).mean()

    @property
    def drawn_at_once(self) -> int:
        """Number of images that are drawn at once: 16, or fewer where they are large."""
        side = self.unet.config.sample_size * self.pipeline.vae_scale_factor
        return min(16, 2 * _rows_at_once(side, side))

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        sampler: str,
        steps: int,
        guidance: float,
        negative: str = "",
        rows: int | None = None,
    ) -> tuple[Images, npt.NDArray[np.bool_]]:
        """Draw one image for each prompt.

        prompts: n texts. seeds: n seeds of the images' noise, so an image does not depend on the others. sampler: ddim
        (Song et al., 2021) or dpm (DPM-Solver++; Lu et al., 2022). steps: denoising steps. guidance: weight of
        classifier-free guidance. negative: prompt in place of the empty one of guidance. rows: images of a batch; None:
        `drawn_at_once`. Returns images (n, height, width, 3), and whether each of them is finite, (n,) bool. Within the
        call the gradients of the U-Net's weights, which an attacker may still have, are in the host's memory.
        """
        rows = rows or self.drawn_at_once
        kinds = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}
        trained_with = self.pipeline.scheduler
        self.pipeline.scheduler = kinds[sampler].from_config(trained_with.config)
        self.pipeline.set_progress_bar_config(disable=True)
        images, finite = [], []
        gradients = [(weight, weight.grad.cpu()) for weight in self.unet.parameters() if weight.grad is not None]
        self.unet.zero_grad()
        try:
            for start in range(0, len(prompts), rows):
                part = list(prompts[start : start + rows])
                draws = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + rows]]
                with self.computing():
                    text, negated = (self._text(some).to(self.dtype) for some in (part, [negative] * len(part)))
                    drawn = self.pipeline(
                        **self.family.drawing(self.pipeline, text, negated, negative),
                        num_inference_steps=steps,
                        guidance_scale=guidance,
                        generator=draws,
                        output_type="latent",
                    ).images
                for pixels in self._decoded(drawn):
                    finite.append(pixels.isfinite().flatten(1).all(1).cpu().numpy())
                    images.append(as_images(pixels.nan_to_num(-1)))
        finally:
            self.pipeline.scheduler = trained_with
            for weight, gradient in gradients:
                weight.grad = gradient.to(weight.device)
        return np.concatenate(images), np.concatenate(finite)

    def changed(self, base: Mapping[str, torch.Tensor], part: str = "unet") -> dict[str, torch.Tensor]:
        """The tensors of the `part`, the U-Net or a text encoder, that differ from the tensors in `base`, by name."""
        return changed(getattr(self.pipeline, part).state_dict(), base)


def unet_weights(model: TextToImage) -> Mapping[str, torch.Tensor]:
    """The weights of the U-Net of `model`, by name."""
    weights: Mapping[str, torch.Tensor] = model.unet.state_dict()
    return weights


def changed(tensors: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The `tensors` that differ from those in `base`, by name."""
    return {name: value.detach().contiguous() for name, value in tensors.items() if not torch.equal(value, base[name])}


def _call(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    scaling: LossScaling | None,
    **further: Any,
) -> Any:
    """Call `module` with `weights` in place of its own, and with scaled gradients within it if `scaling` is given."""
    weights = dict(weights)
    if scaling:
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        weights = {name: scaling.entering(weight) for name, weight in {**trained, **weights}.items()}
    # Without weights to replace, a plain call gives the same result and is faster.
    return functional_call(module, weights, tuple(inputs), further) if weights else module(*inputs, **further)


def _rows_at_once(height: int, width: int) -> int:
    """Number of pictures that the autoencoder takes at once."""
    return max(1, PIXELS_AT_ONCE // (height * width))


def _is_half(dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16)


def cross_attention(unet: torch.nn.Module) -> list[tuple[str, Any]]:
    """The cross-attention layers of `unet`, which attend to the text, with their names."""
    return [(name, layer) for name, layer in unet.named_modules() if name.endswith("attn2")]


def denoising_target(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """The U-Net's training target for the `prediction_type` of `scheduler`: the noise (Ho et al., 2020) or the velocity
    (Salimans & Ho, 2022), (n, channels, height, width).

    latents, noise: (n, channels, height, width). times: time steps, (n,) int64. Raises `RunError` for another type.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, times)
    raise RunError(f"the base model's scheduler predicts '{kind}'; this harness knows epsilon and v_prediction")


def as_pixels(images: torch.Tensor) -> torch.Tensor:
    """Convert `images`, uint8 (n, height, width, 3), to float32 (n, 3, height, width) in [−1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def as_images(pixels: torch.Tensor) -> Images:
    """Clip `pixels`, floats (n, 3, height, width), to [−1, 1] and convert them to uint8 (n, height, width, 3)."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
