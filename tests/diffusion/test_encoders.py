"""Encoders: what they give, from names and from local files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.diffusion import encoders, pipeline_stage
from harness.diffusion.located import Files
from harness.diffusion.measuring import Decode, Look, Seen, _encoders
from harness.diffusion.pipeline_stage import save_images
from harness.diffusion.protocol import ENCODERS, DiffusionProtocol
from harness.diffusion.small import WEIGHTS
from harness.errors import RunError, UsageError
from harness.stage import Folders, Located
from harness.store.tensors import load_tensors
from tests.diffusion.helpers import noise


@pytest.fixture(autouse=True)
def _forget() -> None:
    encoders.load.cache_clear()
    encoders.retry()


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """AlexNet with random weights, as torchvision would publish it."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = tmp_path / "alexnet.pth"
    torch.save(alexnet(weights=None).state_dict(), path)
    return path


def test_lpips_is_the_lpips_packages_own(trunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a local trunk: the package's network with the same trunk put in by hand, picture by picture."""
    from lpips import LPIPS

    theirs = LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    state = torch.load(trunk, weights_only=True)
    slices = {"0": "slice1", "3": "slice2", "6": "slice3", "8": "slice4", "10": "slice5"}
    for layer, part in slices.items():
        for side in ("weight", "bias"):
            getattr(getattr(theirs.net, part), layer).__getattr__(side).data = state[f"features.{layer}.{side}"]
    first, second = noise(4, 1, 64), noise(3, 2, 64)
    with torch.no_grad():
        pixels = [torch.from_numpy(x[:3]).permute(0, 3, 1, 2) / 127.5 - 1 for x in (first, second)]
        distances = theirs(*pixels).flatten()
    lpips = encoders.encoder("lpips", str(trunk))
    assert lpips.embed is None
    first, second = torch.from_numpy(first), torch.from_numpy(second)
    assert lpips.alike(first, second) == pytest.approx(1 - float(distances.mean()), abs=1e-6)
    assert lpips.alike(first, first) == pytest.approx(1)
    monkeypatch.setattr(encoders, "AT_ONCE", 2)
    assert lpips.alike(first, second) == pytest.approx(1 - float(distances.mean()), abs=1e-6)


def test_a_look_keeps_no_pictures_for_lpips(trunk: Path, tmp_path: Path) -> None:
    """Its similarities read the pictures that another job has saved."""
    made = Decode(base=Located("none", None), precision="fp32", pictures=None)
    files = {"lpips": Files().weights(str(trunk)), "classifier": None}
    look = Look(encoders=files, classes=(), count=6, images=made)
    (tmp_path / "made").mkdir()
    (tmp_path / "seen").mkdir()
    images = noise(6, 1, 64).reshape(2, 3, 64, 64, 3)
    save_images(tmp_path / "made", images)
    folders = Folders({made.key: tmp_path / "made", look.key: tmp_path / "seen"})
    look.run(folders, tmp_path / "seen")
    assert set(load_tensors(tmp_path / "seen" / "seen.safetensors")) == {"classifier"}
    view = Seen(made, look).view(folders)
    assert set(view.embeddings) == {"lpips", "classifier"}
    lpips = encoders.encoder("lpips", str(trunk))
    assert lpips.alike(view.embeddings["lpips"][0], view.embeddings["lpips"][0]) == pytest.approx(1)
    assert lpips.alike(view.embeddings["lpips"][0], view.embeddings["lpips"][1]) < 0.95
    assert torch.equal(view[1].embeddings["lpips"], torch.from_numpy(images[1]))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["classifier", "contrastive", "efficientnet_lite0"])
def test_encoders_run_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the embeddings of the CPU, and on the CPU afterwards."""
    images = noise(130, 1, 32)
    found = encoders.encoder(name).embed(images)
    assert torch.cuda.max_memory_allocated() > 0
    assert found.device.type == "cpu"
    encoders.load.cache_clear()
    monkeypatch.setattr(encoders, "_device", lambda: torch.device("cpu"))
    torch.testing.assert_close(found, encoders.encoder(name).embed(images), rtol=1e-2, atol=1e-2)


def test_cosine_encoders_average_all_pairs() -> None:
    used = encoders.encoder("efficientnet_lite0")
    embed, alike = used.embed, used.alike
    first, second = embed(noise(3, 1, 32)), embed(noise(2, 2, 32))
    assert first.shape == (3, 1280)
    pairs = [torch.nn.functional.cosine_similarity(a, b, dim=0) for a in first for b in second]
    assert alike(first, second) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-5)


def test_efficientnet_sees_what_pictures_show() -> None:
    """Its ImageNet weights are in the right places: parts of one photograph are more alike than of two."""
    from sklearn.datasets import load_sample_images

    used = encoders.encoder("efficientnet_lite0")
    embed, alike = used.embed, used.alike
    palace, flower = load_sample_images().images
    parts = [embed(np.stack([photo[:400, x : x + 400] for x in (0, 120, 240)])) for photo in (palace, flower)]
    same, apart = (alike(parts[0], of) for of in parts)
    assert same > 0.6
    assert apart < 0.3


@pytest.mark.parametrize("name", ["clip", "dino", "lpips"])
def test_no_hub_in_reach(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RunError, match=rf"cannot load encoder '{name}'.*encoders: \{{{name}: FILE\}}") as error:
        encoders.load(name)
    assert "\n" not in str(error.value)


def test_wrong_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown encoder 'clipp'; did you mean clip"):
        encoders.load("clipp")
    with pytest.raises(RunError, match=r"encoder 'dino': .*nothing\.pth does not exist"):
        encoders.load("dino", str(tmp_path / "nothing.pth"))


def test_names_and_files_are_checked_when_the_suite_is_read(tmp_path: Path) -> None:
    """Paths are relative to the suite file. A submission's files are those of another machine."""
    (tmp_path / "own.pth").touch()
    for given, message in (
        (["clipp"], "unknown encoder 'clipp'; did you mean clip"),
        ({"lpips": "nope.pth"}, "the weights of 'lpips', .*nope.pth, do not exist"),
        ({"dino": "."}, "the weights of 'dino', .* do not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            DiffusionProtocol.model_validate({"encoders": given}, context={"folder": tmp_path})
    given = {"encoders": {"dino": "own.pth", "clip": None}}
    read = DiffusionProtocol.model_validate(given, context={"folder": tmp_path})
    assert read.encoders == {"dino": str(tmp_path / "own.pth"), "clip": None}
    assert DiffusionProtocol.model_validate({"encoders": {"dino": "nope.pth"}}).encoders == {"dino": "nope.pth"}
    assert set(ENCODERS) == set(encoders._LOADERS)


@pytest.mark.parametrize("name", ["lpips", "contrastive", "dino"])
def test_a_file_that_holds_no_weights_is_one_clear_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello world")
    with pytest.raises(RunError, match=rf"cannot load encoder '{name}': .*notes\.txt has no weights of it") as error:
        encoders.load(name, str(tmp_path / "notes.txt"))
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_a_missing_encoder_is_tried_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def offline(path: str | None) -> None:
        tries.append(path)
        raise OSError("no network")

    monkeypatch.setitem(encoders._LOADERS, "clip", offline)
    for _ in range(3):
        with pytest.raises(RunError, match=r"cannot load encoder 'clip' \(no network\)"):
            encoders.load("clip")
    assert tries == [None]
    with pytest.raises(RunError, match=r"cannot load encoder 'clip': .* has no weights of it"):
        encoders.load("clip", __file__)
    encoders.retry()  # the next plan
    monkeypatch.setitem(encoders._LOADERS, "clip", lambda path: "network")
    assert encoders.load("clip") == "network"


@pytest.mark.slow
def test_clip_from_a_local_file(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    made = open_clip.create_model("ViT-B-32-quickgelu").eval()
    torch.save(made.state_dict(), tmp_path / "clip.pt")
    embed = encoders.encoder("clip", str(tmp_path / "clip.pt")).embed
    images = noise(2, 1, 224)
    mean, std = (
        torch.tensor(of)[:, None, None] for of in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        expected = made.encode_image((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(embed(images), expected, atol=1e-4, rtol=1e-4)


def test_dino_from_a_local_file(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    made = timm.create_model("vit_small_patch16_224.dino", num_classes=0).eval()
    torch.save(made.state_dict(), tmp_path / "dino.pth")
    embed = encoders.encoder("dino", str(tmp_path / "dino.pth")).embed
    images = noise(2, 1, 224)
    mean = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
    std = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    with torch.no_grad():
        expected = made((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(embed(images), expected, atol=1e-4, rtol=1e-4)
    assert embed(noise(1)).shape == (1, 384)  # any size of picture


def test_an_edited_file_of_weights_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys have the digest of the file, so one process must not measure two contents with one network."""
    path = tmp_path / "weights.pth"
    monkeypatch.setitem(encoders._LOADERS, "own", lambda path: [Path(path).read_text()])
    monkeypatch.setattr(encoders, "_batched", lambda network, images, place: network)
    seen = []
    for content in ("one", "two"):
        path.write_text(content)
        used = _encoders({"own": Files().weights(str(path))})["own"]
        seen.append(used.embed(None))
    assert seen == [["one"], ["two"]]


@pytest.mark.parametrize("name", ["classifier", "contrastive"])
def test_other_weights_at_the_path_of_a_small_network_are_other_embeddings(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = load_file(WEIGHTS / f"{name}.safetensors")
    seen = []
    for factor in (1.0, 0.5):
        save_file({key: value * factor if value.is_floating_point() else value for key, value in tensors.items()}, path)
        (used,) = _encoders({name: Files().weights(str(path))}).values()
        seen.append(used.embed(noise(2, 1, 32)))
    assert torch.equal(seen[0], encoders.encoder(name).embed(noise(2, 1, 32)))
    assert not torch.allclose(*seen)
    assert encoders.load(name) is encoders.load(name)


def test_a_base_model_that_has_changed_is_not_the_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changed during a load and is restored must not leave the other content in memory."""

    class Job(pipeline_stage.PipelineStage, track="test", version=1):
        """Reads a base model."""

    monkeypatch.setattr(pipeline_stage.TextToImage, "load", lambda base, precision: [Path(base, "unet").read_text()])
    file = tmp_path / "unet"
    file.write_text("one")
    job = Job(base=Files().base(str(tmp_path)), precision="fp32")
    first = job.untouched()
    assert job.untouched() is first
    file.write_text("two")
    with pytest.raises(RunError, match="has other content here"):
        job.untouched()
    file.write_text("one")
    assert job.untouched() == first
    assert job.untouched() is not first
    file.write_text("two")
    other = Job(base=Files().base(str(tmp_path)), precision="fp32")
    assert (other.key != job.key, other.untouched()) == (True, ["two"])


def test_a_name_on_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    unknown = Files().base("a/b")
    assert unknown.digest == "hub:a/b"
    keys = set()
    for commit in ("1" * 40, "2" * 40):
        snapshot, refs = (tmp_path / "models--a--b" / part for part in ("snapshots", "refs"))
        (snapshot / commit).mkdir(parents=True)
        (snapshot / commit / "model_index.json").write_text("{}")
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(commit)
        located = Files().base("a/b")
        assert located.digest == f"hub:a/b@{commit}"
        keys.add(located.digest)
        with pytest.raises(RunError, match="has other content here"):
            unknown.check()
    assert len(keys) == 2
    (refs / "main").write_text("1" * 40)
    with pytest.raises(RunError, match=r"other content here \(11111111\) than in the plan \(22222222\)"):
        located.check()
