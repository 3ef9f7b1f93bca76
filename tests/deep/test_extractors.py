"""Extractors: tail after trunk is the network, and what is missing is one clear line."""

import pytest
import timm
import torch
from safetensors.torch import load_file

from harness.deep import data, extractors
from harness.errors import RunError
from tests.deep.folders import write_vit


def pixels(size, count=3):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def parts(network):
    trunk, tail = extractors._parts("test", network.eval())
    return lambda x: tail(trunk(x))


@pytest.mark.parametrize("build", [extractors.resnet18_small, extractors.vit_small], ids=["resnet", "vit"])
@torch.no_grad()
def test_the_tail_after_the_trunk_is_the_network(build):
    network = build(28).eval()
    network.reset_classifier(0)
    x = pixels(28)
    torch.testing.assert_close(parts(network)(x), network(x))


def test_the_small_networks_have_the_sizes_that_are_documented():
    counts = {
        build: sum(parameter.numel() for parameter in build(28).parameters())
        for build in (extractors.resnet18_small, extractors.vit_small)
    }
    assert 0.65e6 < counts[extractors.resnet18_small] < 0.75e6
    assert 0.4e6 < counts[extractors.vit_small] < 0.5e6


@torch.no_grad()
def test_efficientnet_lite0_has_its_weights_for_imagenet_from_its_package():
    """Its features of two pictures of the same thing are alike, those of noise are not; the split is exact."""
    extractor = extractors.load("efficientnet_lite0", 64)
    assert extractor.dim == 1280
    x = pixels(64)
    features = extractor.tail(extractor.activations(x))
    whole, mean, std = extractors._efficientnet_lite0(64)
    torch.testing.assert_close(features, whole.eval()((x - mean[0]) / std[0]))
    assert extractors.CONTENT.digest("efficientnet_lite0") is not None


@pytest.mark.parametrize(("name", "documented"), [("resnet18_small", 0.9116), ("vit_small", 0.8810)])
@torch.no_grad()
def test_a_shipped_network_has_its_documented_accuracy(name, documented):
    """On the 1,000 test pictures that ship, with a standard error of .01."""
    extractor, pictures = extractors.load(name, 28), data.load("fashion_mnist")
    outputs = [extractor.classifier(extractor.tail(extractor.activations(part))) for part in pictures.batches(28)]
    right = torch.cat(outputs).argmax(1) == torch.from_numpy(pictures.labels)
    assert float(right[torch.from_numpy(pictures.heldout)].double().mean()) == pytest.approx(documented, abs=0.02)


def test_the_shipped_weights_are_small_and_of_half_precision():
    files = sorted(extractors.WEIGHTS.glob("*.safetensors"))
    assert [path.stem for path in files] == sorted(extractors.SMALL)
    assert sum(path.stat().st_size for path in files) <= 2.5e6
    for path in files:
        kinds = {value.dtype for value in load_file(path).values()}
        assert kinds <= {torch.float16, torch.int64}


@pytest.mark.parametrize("size", [16, 32], ids=["as saved", "another size"])
@torch.no_grad()
def test_a_vision_transformer_of_a_folder_is_the_one_of_timm(size, tmp_path):
    """The paper's architecture, made small, with a classifier, which is left out; positions are interpolated."""
    write_vit(tmp_path / "vit", "vit_base_patch16_224", classes=7)
    extractor = extractors.load(str(tmp_path / "vit"), size)
    whole = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True, num_classes=0, img_size=size).eval()
    x = pixels(size)
    features = extractor.tail(extractor.activations(x))
    assert features.shape == (3, extractor.dim)
    torch.testing.assert_close(features, whole((x - 0.5) / 0.5))
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    counts = [sum(weight.numel() for weight in part.parameters()) for part in (extractor.trunk, extractor.tail, whole)]
    assert counts[0] + counts[1] == counts[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "cannot load extractor 'resnet18' .*give the folder of a timm model, or use efficientnet_lite0"),
        ("no_such_net", "cannot load extractor 'no_such_net' .*give the folder of a timm model"),
        ("FOLDER", "cannot load extractor .*the folder needs config.json and model.safetensors as timm saves them"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(name, message, tmp_path):
    with pytest.raises(RunError, match=message) as error:
        extractors.load(str(tmp_path) if name == "FOLDER" else name, 32)
    assert "\n" not in str(error.value)


def test_a_network_that_computes_more_than_its_stages_is_refused(monkeypatch):
    """Its own forward differs: here it ends with one more layer."""

    def longer(size):
        network = extractors.vit_small(size)
        network.head = torch.nn.Linear(96, 96)
        return network, (0.5,) * 3, (0.5,) * 3

    monkeypatch.setitem(extractors._NAMED, "longer", longer)
    with pytest.raises(RunError, match="'longer' computes more than its stages"):
        extractors.load("longer", 28)


def test_a_family_without_a_known_tail_is_refused():
    from timm.models import MlpMixer

    with pytest.raises(RunError, match="is a MlpMixer, of which this harness does not know the tail"):
        extractors._parts("mixer", MlpMixer(img_size=32, patch_size=16, embed_dim=8, num_blocks=1))
