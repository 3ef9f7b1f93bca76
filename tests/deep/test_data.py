"""Data sets of pictures."""

import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness.deep import data
from harness.deep import torchvision_sets as sets
from harness.deep.tasks import Task
from harness.errors import RunError
from tests.deep.folders import write_classes, write_torchvision


@pytest.mark.parametrize(
    ("name", "rows", "heldout"), [("mnist5k", 5000, 1000), ("fashion_mnist", 3400, 1000), ("digits8", 1797, 797)]
)
def test_data_sets_without_a_network(name, rows, heldout):
    pictures = data.load(name)
    assert (len(pictures.labels), int(pictures.heldout.sum()), pictures.classes) == (rows, heldout, 10)
    assert set(pictures.labels[pictures.heldout]) == set(pictures.labels[~pictures.heldout]) == set(range(10))
    assert data.named_digest(name) == data.named_digest(name)


def test_fashion_mnist_has_its_classes_in_rows():
    """Trousers (class 1) are narrow and bags (class 8) are not: the share of lit columns tells them apart."""
    pictures = data.load("fashion_mnist")

    def width(label):
        places = np.flatnonzero(pictures.labels == label)[:50]
        return np.mean([(pictures.read(place)[..., 0].mean(0) > 20).mean() for place in places])

    assert width(1) < 0.55 < 0.7 < width(8)


def test_pictures_are_cropped_to_a_square_and_scaled(tmp_path):
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 255
    pictures = data.Pictures(np.array([0]), np.array([False]), 2, lambda place: wide)
    (pixels,) = pictures.batches(8)
    assert pixels.shape == (1, 3, 8, 8)
    assert torch.equal(pixels, torch.ones_like(pixels))


def test_a_folder_of_classes(tmp_path):
    write_classes(tmp_path, classes=("b", "a"), train=3, test=2)
    (tmp_path / "train" / "a" / "notes.txt").write_text("no picture")
    pictures = data.load(str(tmp_path))
    assert pictures.classes == 2
    assert sorted(zip(pictures.labels.tolist(), pictures.heldout.tolist(), strict=True)) == sorted(
        [(label, False) for label in (0, 1) for _ in range(3)] + [(label, True) for label in (0, 1) for _ in range(2)]
    )
    first = data.FOLDER.digest(str(tmp_path))
    write_classes(tmp_path, classes=("a",), train=1, test=0, seed=7)
    assert data.FOLDER.digest(str(tmp_path)) != first


def test_a_folder_that_is_no_data_set_is_one_clear_line(tmp_path):
    with pytest.raises(RunError, match="is no data set: it needs the folders `train` and `test`"):
        data.load(str(tmp_path))
    write_classes(tmp_path, classes=("a", "b"), train=1, test=1)
    write_classes(tmp_path, classes=("c",), train=0, test=1)
    with pytest.raises(RunError, match=r"test has the class 'c', which .*train has not"):
        data.load(str(tmp_path))
    (tmp_path / "test" / "c" / "0.png").unlink()
    (tmp_path / "test" / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"cannot read the picture .*0\.png"):
        list(data.load(str(tmp_path)).batches(8))


def test_a_task_names_data_sets_and_folders_relative_to_the_suite(tmp_path):
    (tmp_path / "cars").mkdir()
    fields = {"extractor": "efficientnet_lite0", "benign": "fashion_mnist"}
    task = Task.model_validate({**fields, "harmful": "cars"}, context={"folder": tmp_path})
    assert task.harmful == str(tmp_path / "cars")
    assert task.label == "efficientnet_lite0 fashion_mnist cars"
    with pytest.raises(ValidationError, match=r"'fashion_mnits' is neither a data set nor a folder.*fashion_mnist"):
        Task(extractor="x", benign="fashion_mnits", harmful="mnist5k")
    with pytest.raises(ValidationError, match="the same data set"):
        Task(extractor="x", benign="mnist5k", harmful="mnist5k")


@pytest.mark.parametrize(("name", "classes"), [("cars", 3), ("country211", 2), ("imagenet", 2)])
def test_data_sets_of_torchvision_in_a_local_folder(tmp_path, name, classes):
    write_torchvision(tmp_path, name)
    pictures = data.load(f"{name}={tmp_path}")
    assert pictures.classes == classes
    assert pictures.labels.tolist() == [c for count in (3, 2) for c in range(classes) for _ in range(count)]
    assert pictures.heldout.tolist() == [False] * 3 * classes + [True] * 2 * classes
    red = [pictures.read(place)[..., 0].mean() for place in range(len(pictures.labels))]
    first = 60 if name == "cars" else 0  # annotated classes start at 1
    assert red == pytest.approx(first + 60 * pictures.labels, abs=3)
    content = data.content(f"{name}={tmp_path}")
    assert len(list(content.files(f"{name}={tmp_path}"))) == 5 * classes
    before = content.digest(f"{name}={tmp_path}")
    next(iter(content.files(f"{name}={tmp_path}"))).write_bytes(b"a shorter file")
    assert None not in (before, after := content.digest(f"{name}={tmp_path}"))
    assert before != after


@pytest.mark.parametrize("name", sorted(sets.SETS))
def test_a_folder_without_a_data_set_of_torchvision_is_one_clear_line(tmp_path, monkeypatch, name):
    wanted = sets.SETS[name]
    with pytest.raises(
        RunError, match=rf"does not hold torchvision's {wanted.name}: it has no {wanted.needs[0]}; give"
    ):
        data.load(f"{name}={tmp_path}")
    assert data.content(f"{name}={tmp_path}").digest(f"{name}={tmp_path}") is None
    write_torchvision(tmp_path, name)
    broken = {"cars": "stanford_cars/devkit/cars_train_annos.mat", "imagenet": "meta.bin"}.get(name)
    if broken:
        (tmp_path / broken).write_bytes(b"nonsense")
        with pytest.raises(RunError, match=f"cannot read torchvision's {wanted.name} in"):
            data.load(f"{name}={tmp_path}")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(RunError, match=f"data set {name} needs the package torchvision, which is not installed"):
        data.load(f"{name}={tmp_path}")


def test_a_task_places_data_sets_of_torchvision(tmp_path):
    (tmp_path / "sets").mkdir()
    fields = {"extractor": "efficientnet_lite0", "benign": "fashion_mnist", "harmful": "cars"}
    task = Task.model_validate({**fields, "roots": {"cars": "sets"}}, context={"folder": tmp_path})
    assert task.label == "efficientnet_lite0 fashion_mnist cars"
    assert task.source(task.harmful) == f"cars={tmp_path / 'sets'}"
    assert task.source(task.benign) == "fashion_mnist"
    assert Task.model_validate(task.model_dump()) == task
    with pytest.raises(ValidationError, match=r"harmful: write the folder of torchvision's cars too: `roots"):
        Task(**fields)
    with pytest.raises(ValidationError, match=r"roots: there is no folder .*absent with torchvision's cars"):
        Task(**fields, roots={"cars": str(tmp_path / "absent")})
    with pytest.raises(ValidationError, match=r"roots: torchvision's 'flowers' is not known here; .*cars"):
        Task(**fields, roots={"flowers": str(tmp_path)})


def test_the_first_pictures_of_each_class_in_each_split():
    labels = np.array([0, 1, 0, 1, 0, 0, 1])
    heldout = np.array([False, False, False, True, False, True, False])
    pictures = data.Pictures(labels, heldout, 2, lambda place: np.full((1, 1, 3), place, dtype=np.uint8))
    part = pictures.first(2)
    kept = [int(part.read(place)[0, 0, 0]) for place in range(len(part.labels))]
    assert kept == [0, 1, 2, 3, 5, 6]
    assert (part.labels.tolist(), part.heldout.tolist()) == (labels[kept].tolist(), heldout[kept].tolist())
    assert pictures.first(None) is pictures
