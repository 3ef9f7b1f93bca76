"""Rows of released models that are read from a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import harness
from harness import plan
from harness.diffusion.model import TextToImage
from harness.diffusion.stages import Attack, Draw, ReadCheckpoint
from harness.diffusion.views import IMAGES
from harness.execution.worker import ensure
from harness.store import Store
from harness.store.tensors import load_tensors
from tests.diffusion.helpers import STYLES, load_suite, pipeline
from tests.helpers import immunebench

SUITE = """
format: 1
name: small
version: 1
title: Untrained weights
seeds: 1
grids:
  - name: styles
    track: diffusion
    tasks: [{base: %s, concepts: styles.yaml, groups: [[marvo], [telune]]}]
    protocol:
      steps: 2
      measure_at: [2]
      training_images: 2
      images: 2
      sampling: {steps: 1, guidance: 2}
      encoders: [classifier]
    defenses: {none: , mima: {steps: 2, lr: 1.e-3, prior: captions}}
    attackers: {lora: {lr: 0.01}}
"""
CONCEPTS = STYLES + "captions: captions.txt\nconcepts: {marvo: , telune: , obrick: , sevra: }\n"
UNET, TEXT, VAE = (
    f"{part}/{file}.safetensors"
    for part, file in {
        "unet": "diffusion_pytorch_model",
        "text_encoder": "model",
        "vae": "diffusion_pytorch_model",
    }.items()
)


@pytest.fixture
def suite(tmp_path: Path, base: Path) -> Path:
    (tmp_path / "captions.txt").write_text("a photo of a boot\na photo\n")
    (tmp_path / "styles.yaml").write_text(CONCEPTS)
    (tmp_path / "suite.yaml").write_text(SUITE % base)
    return tmp_path / "suite.yaml"


@pytest.fixture
def mine(tmp_path: Path, base: Path) -> Path:
    """A folder with the base model, to be changed."""
    return Path(shutil.copytree(base, tmp_path / "mine"))


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Edit the tensors in a file."""
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)


def _scale(name: str, factor: float = 1.5) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[name].mul_(factor)


def _read(
    suite: Path, folder: Path, store: Store, task: str = "marvo", precision: str = "fp32"
) -> tuple[ReadCheckpoint, TextToImage]:
    """The job that reads a checkpoint, and the model in its artifact."""
    settings = [f"tasks.precision={precision}"]
    made = plan.make(load_suite(suite, checkpoints={"mine": folder}, tasks=task, settings=settings))
    (job,) = (job for job in made.jobs.values() if isinstance(job, ReadCheckpoint))
    return job, job.load(ensure(job, store))


def test_a_released_model_read_back_has_the_pictures_of_its_row(suite: Path, tmp_path: Path) -> None:
    """Before and after an attack, to the last digit: the same weights meet the same attack under the same noise. All
    values are measured on these pictures."""
    harness.release(str(suite), "mima", tmp_path / "mine", task="marvo")
    made = plan.make(load_suite(suite, defenses="mima", checkpoints={"mine": tmp_path / "mine"}, tasks="marvo"))
    (grid,) = made.suite.grids
    assert grid.changed == ["defenses.mine. added", "1 of 2 defenses", "1 of 2 tasks"]
    pictures: dict[str, list[torch.Tensor]] = {"mima": [], "checkpoint": [], "none": []}
    for job in made.jobs.values():
        attacked = isinstance(job, Attack) and job.concept.name == "marvo"
        drawn = isinstance(job, Draw) and [concept.name for concept in job.concepts] == ["marvo"]
        if (attacked or drawn) and job.model.plugin is not None:
            pictures[job.model.plugin.name].append(load_tensors(ensure(job, Store()) / IMAGES)["images"])
    assert len(pictures["mima"]) == 2
    for ours, theirs, undefended in zip(*(pictures[row] for row in ("checkpoint", "mima", "none")), strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, undefended)


def test_each_task_takes_its_own_folder(suite: Path, mine: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    for task, factor in {"marvo": 2.0, "telune": 3.0}.items():
        shutil.copytree(mine, both / task)
        change(both / task / UNET, _scale("conv_in.weight", factor))
    plain = load_file(mine / UNET)["conv_in.weight"]
    for task, factor in {"marvo": 2.0, "telune": 3.0}.items():
        _, model = _read(suite, both, Store(), task)
        torch.testing.assert_close(model.unet.conv_in.weight, factor * plain, rtol=0, atol=0)


def test_the_text_encoder_may_change_too_and_alone(suite: Path, mine: Path, base: Path) -> None:
    name = "encoder.layers.0.mlp.fc1.weight"
    change(mine / TEXT, _scale(name))
    shutil.rmtree(mine / "unet")
    (mine / "model_index.json").unlink()
    job, model = _read(suite, mine, Store())
    assert set(model.changed(job.untouched().unet.state_dict())) == set()
    assert set(model.changed(job.untouched().text_encoder.state_dict(), "text_encoder")) == {name}
    assert not torch.equal(model.text(["a photo"]), TextToImage.load(str(base)).text(["a photo"]))


def test_the_path_and_other_files_are_in_no_key(suite: Path, mine: Path, tmp_path: Path) -> None:
    def keys(folder: Path) -> set[str]:
        return set(plan.make(load_suite(suite, checkpoints={"mine": folder})).jobs)

    first = keys(mine)
    other = Path(shutil.copytree(mine, tmp_path / "elsewhere"))
    (other / "README.md").write_text("weights")
    assert keys(other) == first
    change(other / UNET, _scale("conv_in.weight"))
    assert keys(other) != first


def test_names_and_precision_of_earlier_versions(suite: Path, mine: Path) -> None:
    """Half precision, and the text encoder's names before transformers 5."""

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        old = {f"text_model.{name}": value.half() for name, value in tensors.items()}
        tensors.clear()
        tensors.update(old, **{"text_model.embeddings.position_ids": torch.arange(20)[None]})

    change(mine / TEXT, rename)
    for part in (UNET, VAE):
        change(mine / part, lambda tensors: tensors.update({name: value.half() for name, value in tensors.items()}))
    job, model = _read(suite, mine, Store())
    for name, value in job.untouched().unet.state_dict().items():
        assert torch.equal(model.unet.state_dict()[name], value.half().float())


def test_a_checkpoint_is_computed_in_the_precision_of_the_task(suite: Path, mine: Path) -> None:
    change(mine / UNET, _scale("conv_in.weight"))
    _, model = _read(suite, mine, Store(), precision="bf16")
    assert torch.equal(model.unet.conv_in.weight, load_file(mine / UNET)["conv_in.weight"].bfloat16())
    change(mine / UNET, _scale("conv_in.weight", 1e8))
    with pytest.raises(harness.RunError, match="overflows in the task's precision"):
        _read(suite, mine, Store(), precision="fp16")


def test_a_folder_that_is_changed_after_planning_fails_its_cells(suite: Path, mine: Path) -> None:
    made = plan.make(load_suite(suite, checkpoints={"mine": mine}))
    job = next(job for job in made.jobs.values() if isinstance(job, ReadCheckpoint))
    change(mine / UNET, _scale("conv_in.weight"))
    with pytest.raises(harness.RunError, match=r"mine has other content here .* than in the plan"):
        ensure(job, Store())


def _absent(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _pickles(folder: Path) -> None:
    _empty(folder)
    (folder / "unet").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")


def _pickled_text(folder: Path) -> None:
    (folder / TEXT).rename(folder / "text_encoder" / "pytorch_model.bin")


def _no_unet(folder: Path) -> None:
    (folder / UNET).unlink()


def _other_layout(folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    (folder / "model_index.json").unlink()
    shutil.rmtree(folder / "text_encoder")


def _other_sizes(folder: Path) -> None:
    shutil.rmtree(folder)
    pipeline(channels=8).save_pretrained(folder)


def _lacking(folder: Path) -> None:
    change(folder / UNET, lambda tensors: tensors.pop("conv_in.bias"))


def _with_adapters(folder: Path) -> None:
    change(folder / UNET, lambda tensors: tensors.update(lora=torch.ones(1)))


def _not_finite(folder: Path) -> None:
    change(folder / UNET, lambda tensors: tensors["conv_in.bias"].fill_(float("nan")))


def _truncated(folder: Path) -> None:
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-100])


def _other_autoencoder(folder: Path) -> None:
    change(folder / VAE, _scale("decoder.conv_in.weight"))


def _setting(file: str, **changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_absent, "there is no folder"),
        (_empty, "has no weights: there is no file *.safetensors"),
        (_pickles, "only pickles, which can run code and are not read (unet/diffusion_pytorch_model.bin)"),
        (_pickled_text, "has no text_encoder/model.safetensors, only the pickle pytorch_model.bin"),
        (_no_unet, f"has no {UNET}"),
        (_other_layout, f"has no {UNET}"),
        (_other_sizes, "of its unet has size"),
        (_lacking, "its unet lacks conv_in.bias"),
        (_with_adapters, "its unet has other weights, e.g. lora"),
        (_not_finite, "conv_in.bias of its unet has values that are not finite"),
        (_truncated, "cannot be read"),
        (
            _other_autoencoder,
            "its vae has other weights than the base model's; only the U-Net and the text encoders may change",
        ),
        (_setting("unet/config.json", norm_num_groups=4), "norm_num_groups in unet/config.json is 4, in the base"),
        (_setting("scheduler/scheduler_config.json", prediction_type="v_prediction"), "prediction_type in scheduler"),
    ],
)
def test_a_bad_folder_is_one_line_before_anything_is_computed(
    suite: Path, mine: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(mine)
    done = immunebench(
        "attack", mine, "--suite", suite, "--task", "marvo", "--workers", 1, "--out", mine.parent / "out"
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("immunebench: ")
    assert message in line
    assert str(mine) in line
    assert not Store().keys()
