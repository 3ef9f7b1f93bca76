"""The data-free controls: other weights for the same pictures, and inflated singular values."""

import pytest
import torch

from harness import meter
from harness.diffusion import TextToImage, factors
from harness.probe import Extractor, ProbeTargets, Split
from tests.diffusion.helpers import SAMPLING


def _prediction(model: TextToImage) -> torch.Tensor:
    side, channels = model.unet.config.sample_size, model.unet.config.in_channels
    noisy = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.unet(noisy, torch.tensor([5, 900]), model.text(["an artwork by marvo", "a boot"])).sample


def test_gauge_changes_the_weights_and_keeps_the_pictures(build) -> None:
    plain, model = TextToImage.load("small"), TextToImage.load("small")
    meter.pull(build("defense", "gauge").immunize(model, None), "gauge")
    changed = model.changed(plain.unet.state_dict())
    parts = ("to_q", "to_k", "to_v", "to_out.0.weight", "ff.net.0", "ff.net.2.weight")
    assert set(changed) == {name for name in plain.unet.state_dict() if any(part in name for part in parts)}
    rows = changed["mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"].norm(dim=1)
    assert rows.max() / rows.min() > 1e7
    assert (_prediction(model) - _prediction(plain)).abs().max() < 1e-5
    prompts = ["an artwork by marvo", "a photo of a boot"]
    assert abs(model.sample(prompts, [1, 2], **SAMPLING)[0] - plain.sample(prompts, [1, 2], **SAMPLING)[0]).max() == 0


def test_any_factors_with_the_same_product_make_the_same_pictures(model: TextToImage) -> None:
    """With dense invertible matrices, and with biases of queries and keys."""
    before, draw = _prediction(model), torch.Generator().manual_seed(1)
    for layer in (layer for name, layer in model.unet.named_modules() if name.endswith("attn2")):
        for side in (layer.to_q, layer.to_k, layer.to_v):
            side.bias = torch.nn.Parameter(torch.randn(side.out_features, generator=draw))
    biased = _prediction(model)
    assert (biased - before).abs().max() > 1e-2
    pairs = list(factors(model.unet))
    for pair in pairs:
        left, right = pair.read()
        change = torch.eye(left.shape[1]) + 0.1 * torch.randn(left.shape[1], left.shape[1], generator=draw)
        pair.write(change.double() @ left, torch.linalg.inv(change.double()).T @ right)
    assert len(pairs) == 5 * sum(name.endswith("attn2") for name, _ in model.unet.named_modules())
    assert (_prediction(model) - biased).abs().max() < 1e-4


@pytest.mark.parametrize(("count", "inflated"), [(3, 3), (50, 8)])
def test_spectral_inflates_singular_values(count: int, inflated: int, build) -> None:
    extractor, rows = Extractor(8), Split(torch.zeros(1, 8), torch.zeros(1))  # of which it reads nothing
    defense = build("defense", "spectral", count=count, factor=100.0)
    meter.pull(defense.immunize(extractor, ProbeTargets(rows, rows, seed=1)), "spectral")
    expected = torch.tensor([100.0] * inflated + [1.0] * (8 - inflated), dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.svdvals(extractor.weight.detach()), expected)
