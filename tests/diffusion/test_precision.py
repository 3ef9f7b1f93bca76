"""Precisions: loss scaling in fp16, TensorFloat-32 per job, and keys."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from harness.diffusion import Batch, TextToImage
from harness.diffusion import model as diffusion_model
from harness.diffusion.located import Files
from harness.diffusion.loss_scaling import LossScaling
from harness.diffusion.undefended import Captions
from harness.execution.determinism import isolated

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
NONE = LossScaling(1.0)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def _loss(network: nn.Module, weights: dict, given: torch.Tensor, scaling: LossScaling) -> torch.Tensor:
    entered = {name: scaling.entering(weight) for name, weight in weights.items()}
    return scaling.leaving(functional_call(network, entered, (scaling.entering(given),))).square().mean()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_scaling_changes_no_gradient_and_no_gradient_of_a_gradient(steps: int) -> None:
    """Of weights and inputs, also through unrolled steps whose loss is part of the result."""
    network, given = _network(), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for scaling in (NONE, LossScaling(2.0**16)):
        weights, total = dict(network.named_parameters()), torch.zeros((), dtype=torch.float64)
        for _ in range(steps):
            loss = _loss(network, weights, given, scaling)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {name: w - 0.3 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
            total = total + loss
        total = total + _loss(network, weights, given, scaling)
        found.append(torch.autograd.grad(total, [*network.parameters(), given]))
    for plain, scaled in zip(*found, strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-12, atol=1e-14)


def test_gradients_are_scaled_within_the_network() -> None:
    network, given = _network(), torch.randn(4, 3, dtype=torch.float64)
    seen = []
    network[1].register_full_backward_hook(lambda module, inner, outer: seen.append(outer[0]))
    for scaling in (NONE, LossScaling(256.0)):
        _loss(network, dict(network.named_parameters()), given, scaling).backward()
    torch.testing.assert_close(seen[1], 256 * seen[0])


def _gradient(base: Path, precision: str, which: str = "unet") -> torch.Tensor:
    """The gradient of the keys and values, or of the word embeddings, for a loss as small as a large picture's."""
    model = TextToImage.load(str(base), precision)
    weights = {
        "unet": list(model.weights("keys_values").values()),
        "text": [model.text_encoder.get_input_embeddings().weight],
    }[which]
    draw = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(4, 4, 8, 8, generator=draw) for _ in range(2))
    small = torch.full((4,), 1e-3)
    batch = Batch(latents, ["an artwork by marvo"] * 4, noise, torch.tensor([5, 300, 600, 900]), small)
    model.unfreeze(weights)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(model.denoising_loss(batch), weights)])


@pytest.mark.parametrize("which", ["unet", "text"])
def test_fp16_loses_no_small_gradients(base: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = _gradient(base, "fp32", which)
    scaled = _gradient(base, "fp16", which)
    monkeypatch.setattr(diffusion_model.LossScaling, "of", lambda elements: NONE)
    plain = _gradient(base, "fp16", which)
    errors = [float((of - exact).norm() / exact.norm()) for of in (scaled, plain)]
    zeros = [float(((of == 0) & (exact != 0)).double().mean()) for of in (scaled, plain)]
    assert errors[0] < 0.01 < errors[1]
    assert zeros[0] <= 0.2 * zeros[1]
    assert zeros[1] > 0.1 or which == "text"  # whose gradient is summed up from many


def test_bf16_gradients_are_near_those_of_fp32(base: Path) -> None:
    exact, half = _gradient(base, "fp32"), _gradient(base, "bf16")
    assert float((half - exact).norm() / exact.norm()) < 0.05
    assert float((half == 0).double().mean()) <= float((exact == 0).double().mean())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_switch_of_tf32_is_set_for_a_job_and_restored(base: Path, precision: str) -> None:
    job = Captions(base=Files().base(str(base)), precision=precision, sampling={}, captions=())
    for before in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = before
        with isolated(1):
            job.untouched()
            assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
        assert torch.backends.cuda.matmul.allow_tf32 == before
    torch.backends.cuda.matmul.allow_tf32 = False


def test_keys_tell_precisions_apart(base: Path) -> None:
    located = Files().base(str(base))
    jobs = [Captions(base=located, precision=precision, sampling={}, captions=()) for precision in PRECISIONS]
    assert len({job.key for job in jobs}) == 4


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_gradients_on_a_gpu(base: Path, precision: str) -> None:
    exact, other = _gradient(base, "fp32"), _gradient(base, precision)
    assert float((other - exact).norm() / exact.norm()) < 0.05
