"""The networks of the small base and its encoders (standard classes of libraries), with training data and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import torch as safetensors
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from harness.diffusion.model import as_pixels, denoising_target
from harness.diffusion.small import dataset
from harness.diffusion.small.networks import CLASSES, TOKENS, classifier, contrastive, tokenizer
from harness.diffusion.training.training_loop import Trainer

LATENTS, DECODED, PORTRAITS = "latents.safetensors", "decoded.npy", "portraits.npy"


def read_pictures(folder: Path, split: str) -> dict[str, Any]:
    """Load the pictures that the recipe rendered: images (n, 32, 32, 3) uint8, objects and styles (n,), captions.

    folder: the recipe's folder of intermediate files. split: train or heldout.
    """
    pictures = dict(np.load(folder / f"{split}.npz"))
    pictures["captions"] = (folder / f"{split}.txt").read_text(encoding="utf-8").splitlines()
    return pictures


def _pick(count: int, rows: int, draw: torch.Generator) -> torch.Tensor:
    return torch.randint(count, (rows,), generator=draw)


class Autoencoder(Trainer):
    """The autoencoder: an AutoencoderKL that maps 32×32×3 pixels to 8×8×8 latents."""

    name = "autoencoder"
    steps = 3200
    lr = 2.5e-3
    betas = (0.9, 0.99)
    ema = 0.998
    latents = 8
    kl = 2e-6

    def __init__(self, folder: Path) -> None:
        self.images = torch.from_numpy(read_pictures(folder, "train")["images"])
        self.network = AutoencoderKL(
            block_out_channels=(24, 48, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=self.latents,
            norm_num_groups=8,
            mid_block_add_attention=False,
            sample_size=dataset.SIZE,
            scaling_factor=1.0,
        )

    def loss(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        """Error of pixels and edges, plus a KL divergence with a small weight."""
        pixels = as_pixels(self.images[_pick(len(self.images), rows, draw)])
        posterior = self.network.encode(pixels).latent_dist
        apart = self.network.decode(posterior.sample(generator=draw)).sample - pixels
        edges = sum(apart.diff(dim=d).abs().mean() for d in (2, 3))
        fidelity = 0.3 * apart.abs().mean() + 6 * apart.square().mean() + 0.3 * edges
        return fidelity + self.kl * posterior.kl().mean()


def normalised(network: AutoencoderKL, latents: torch.Tensor) -> None:
    """Change the autoencoder's 1×1 convolutions in place so that its latents have mean 0 and standard deviation 1 in
    each channel and `scaling_factor` is 1.

    network: the autoencoder. latents: its latents (n, channels, height, width), which give the statistics.
    """
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    with torch.no_grad():
        encode, decode = network.quant_conv, network.post_quant_conv
        encode.weight[:channels] /= deviation[:, None, None, None]
        encode.bias[:channels] = (encode.bias[:channels] - mean) / deviation
        encode.bias[channels:] -= 2 * deviation.log()  # the lower half is the log-variance
        decode.bias += decode.weight[:, :, 0, 0] @ mean
        decode.weight *= deviation[None, :, None, None]


class Denoiser(Trainer):
    """The U-Net and the text encoder, trained together on the latents of the training pictures."""

    name = "denoiser"
    steps = 13_000
    rows = 64
    lr = 1.2e-3
    unconditional = 0.08
    """Share of empty captions, for classifier-free guidance."""

    def __init__(self, folder: Path) -> None:
        tokens = tokenizer()
        self.latents = safetensors.load((folder / LATENTS).read_bytes())["latents"]
        captions = [*read_pictures(folder, "train")["captions"], ""]
        self.tokens = tokens(captions, padding="max_length", return_tensors="pt").input_ids
        self.scheduler = scheduler()
        text = CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=96,
            intermediate_size=384,
            projection_dim=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
        unet = UNet2DConditionModel(
            sample_size=self.latents.shape[-1],
            in_channels=self.latents.shape[1],
            out_channels=self.latents.shape[1],
            block_out_channels=(64, 96),
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            layers_per_block=1,
            cross_attention_dim=96,
            attention_head_dim=4,  # the number of heads
            norm_num_groups=16,
        )
        self.network = nn.ModuleDict({"text_encoder": CLIPTextModel(text), "unet": unet})

    def loss(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        """Mean squared error of the predicted velocity, with time steps stratified over the batch."""
        chosen = _pick(len(self.latents), rows, draw)
        latents = self.latents[chosen]
        chosen = torch.where(torch.rand(rows, generator=draw) < self.unconditional, -1, chosen)
        noise = torch.randn(latents.shape, generator=draw)
        spread = (torch.arange(rows) + torch.rand(rows, generator=draw)) / rows
        times = (spread * self.scheduler.config.num_train_timesteps).long()
        text = self.network["text_encoder"](self.tokens[chosen]).last_hidden_state
        noisy = self.scheduler.add_noise(latents, noise, times)
        predicted = self.network["unet"](noisy, times, text).sample
        return functional.mse_loss(predicted, denoising_target(self.scheduler, latents, noise, times))


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule; the U-Net predicts the velocity (Salimans & Ho, 2022)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class Classifier(Trainer):
    """The concept classifier: the object, the style (or photo) and the subject (or nobody) of a picture.

    It trains on pictures and on their encoded and decoded copies, because it will be applied to decoded pictures.
    """

    name = "classifier"
    steps = 3000
    rows = 64
    lr = 2e-3
    ema = 0.99

    def __init__(self, folder: Path) -> None:
        pictures = read_pictures(folder, "train")
        self.images = torch.from_numpy(pictures["images"])
        self.decoded = torch.from_numpy(np.load(folder / DECODED))
        self.portraits = torch.from_numpy(np.load(folder / PORTRAITS))  # (subjects, views, 2, 32, 32, 3)
        self.objects = torch.from_numpy(pictures["objects"])
        self.styles = torch.from_numpy(pictures["styles"])
        self.network = classifier()

    def loss(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        """Sum of the heads' cross-entropies; an eighth of the rows show subjects."""
        chosen = _pick(len(self.images), rows - rows // 8, draw)
        again = torch.rand(len(chosen), generator=draw) < 0.5
        chosen = torch.where(again, chosen % len(self.decoded), chosen)
        images = torch.where(again[:, None, None, None], self.decoded[chosen % len(self.decoded)], self.images[chosen])
        who = _pick(len(self.portraits), rows // 8, draw)
        views = _pick(self.portraits.shape[1], rows // 8, draw)
        kinds = _pick(2, rows // 8, draw)
        things = torch.tensor([dataset.OBJECTS.index(subject.object) for subject in dataset.SUBJECTS])
        pixels = as_pixels(torch.cat([images, self.portraits[who, views, kinds]]))
        # Noise keeps the classifier from learning artefacts of the decoder instead of shapes and colours.
        pixels = pixels + 0.05 * torch.randn(pixels.shape, generator=draw)
        targets = {
            "object": torch.cat([self.objects[chosen], things[who]]),
            "style": torch.cat([self.styles[chosen], torch.full_like(who, -1)]) % len(CLASSES["style"]),
            "subject": torch.cat([torch.full_like(chosen, len(dataset.SUBJECTS)), who]),
        }
        heads = self.network(pixels).split([len(names) for names in CLASSES.values()], 1)
        losses = [
            functional.cross_entropy(logits, targets[kind], ignore_index=-1)
            for kind, logits in zip(CLASSES, heads, strict=True)
        ]
        return torch.stack(losses).sum()


class Contrastive(Trainer):
    """A small CLIP from open_clip, trained on pictures and their captions (Radford et al., 2021)."""

    name = "contrastive"
    steps = 1500
    rows = 128
    lr = 1e-3
    ema = 0.99
    weight_decay = 0.05

    def __init__(self, folder: Path) -> None:
        pictures = read_pictures(folder, "train")
        self.images = torch.from_numpy(pictures["images"])
        captions = pictures["captions"]
        self.tokens = tokenizer()(captions, padding="max_length", return_tensors="pt").input_ids
        numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        self.captions = torch.tensor([numbers[caption] for caption in captions])
        self.network = contrastive(len(tokenizer()))

    def loss(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        """The symmetric cross-entropy; all pictures of a caption are correct and share the target probability."""
        chosen = _pick(len(self.images), rows, draw)
        pixels = as_pixels(self.images[chosen])
        pixels = pixels + 0.05 * torch.randn(pixels.shape, generator=draw)
        images, texts, scale = self.network(pixels, self.tokens[chosen])
        logits = scale * images @ texts.T
        same = (self.captions[chosen, None] == self.captions[None, chosen]).float()
        target = same / same.sum(1, keepdim=True)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
