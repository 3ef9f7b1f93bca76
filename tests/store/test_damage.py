"""Whatever happens to the files of a store, a run gives the same table, or one line."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ImmuneBenchError, UsageError
from harness.execution import executors, scheduler
from harness.store import Store, StoreError
from harness.store.store import LEDGER_FIELDS
from tests import runs
from tests.helpers import KEY, immunebench, put


def _replace(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def harm(path: Path) -> object:
        path.unlink()
        return make(path)

    return harm


HARMS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path: path.write_bytes(path.read_bytes() * 2),
    "null": lambda path: path.write_text("null"),
    "list": lambda path: path.write_text("[]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "large number": lambda path: path.write_text("9" * 5000),
    "surrogate": lambda path: path.write_text(r'{"format": 2, "identity": "\ud800", "key": "\ud800"}'),
    "flipped": lambda path: path.write_bytes(
        bytes([*(read := path.read_bytes())[:-9], *(byte ^ 1 for byte in read[-9:])])
    ),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "huge numbers": lambda path: path.write_bytes(re.sub(rb"\d+", b"1e999", path.read_bytes())),
    "other JSON": lambda path: path.write_text(
        '{"key": {}, "files": ["x"], "seconds": "1", "format": [], "value": {}}'
    ),
    "other types": lambda path: path.write_bytes(re.sub(rb'"\w+"|\d+', b"true", path.read_bytes())),
    "unreadable": lambda path: path.chmod(0),
    "absent": Path.unlink,
    "folder": _replace(Path.mkdir),
    "pipe": _replace(os.mkfifo),
    "endless": _replace(lambda path: path.symlink_to("/dev/zero")),
    "loop": _replace(lambda path: path.symlink_to(path.name)),
    "link elsewhere": _replace(lambda path: path.symlink_to(__file__)),
}

NO_FILE = ("folder", "pipe", "endless", "loop")
DEAD = "cd" * 32
"""A key of which killed processes have left files."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, runs.Run]:
    """The store of a small run, with what killed processes leave, and the run."""
    root = tmp_path_factory.mktemp("whole") / "store"
    done = runs.run(store=root, tasks=["1"])
    (root / "locks" / DEAD).touch()
    for folder, name in (("tmp", DEAD), ("damaged", f"{DEAD}-1"), ("artifacts", f"cd/{DEAD}")):
        (root / folder / name).mkdir(parents=True)
        (root / folder / name / "values.json").write_text("[]")
    (root / "runs" / "dead.json").write_text(json.dumps([DEAD]))
    return root, done


def _files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def _same_or_one_line(whole: tuple[Path, runs.Run], folder: Path, harm: Callable[[Path], object]) -> None:
    """Harm a copy of the store and repeat the run in it: twice, because the first one may leave something."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole[0], folder)
    harm(folder)
    for _ in range(2):
        try:
            store = Store(folder)
            store.collect()
            store.ledger()
            failed = scheduler.run(whole[1].plan, store, executors.Serial())
        except ImmuneBenchError as error:
            line = str(error)
            break
        pd.testing.assert_frame_equal(runs.values(whole[1].plan, store, failed), whole[1].values)
    else:
        return
    assert "\n" not in line
    assert str(folder) in line


@pytest.mark.parametrize("first", [pytest.param(at, marks=[pytest.mark.slow] * (at > 3)) for at in range(len(HARMS))])
def test_all_files_damaged_each_in_another_way(whole, tmp_path, first):
    """In as many turns as there are ways, so that each file is damaged in each way."""
    names = list(HARMS)

    def harm(root: Path) -> None:
        for place, path in enumerate(_files(root), first):
            name = names[place % len(names)]
            if path.name != "store.json" or name not in NO_FILE:
                HARMS[name](root / path)

    _same_or_one_line(whole, tmp_path / "copy", harm)


@pytest.mark.slow
@pytest.mark.parametrize("name", HARMS)
def test_one_file_damaged(whole, tmp_path, name):
    for path in _files(whole[0]):
        _same_or_one_line(whole, tmp_path / "copy", lambda root, path=path: HARMS[name](root / path))


@pytest.mark.parametrize("name", ["artifacts", "damaged", "locks", "runs", "tmp"])
def test_something_else_in_the_place_of_a_folder(whole, tmp_path, name):
    for make in (Path.touch, lambda path: path.symlink_to(path.name), lambda path: path.symlink_to("absent")):

        def harm(root: Path, make: Callable[[Path], object] = make) -> None:
            shutil.rmtree(root / name)
            make(root / name)

        _same_or_one_line(whole, tmp_path / "copy", harm)


@pytest.mark.parametrize("name", NO_FILE)
def test_something_else_in_the_place_of_store_json_is_one_line(name):
    HARMS[name](Store().root / "store.json")
    done = immunebench("store", "ls")
    assert done.returncode == 2
    assert re.fullmatch(r"immunebench: cannot use the store .*: store\.json: .*\n", done.stderr)


@settings(max_examples=15)
@given(data=st.data())
def test_some_files_damaged_in_several_ways(whole, tmp_path_factory, data):
    files = st.sampled_from(_files(whole[0]))
    chosen = data.draw(st.dictionaries(files, st.sampled_from(sorted(HARMS)), min_size=1, max_size=4))

    def harm(root: Path) -> None:
        for path, name in chosen.items():
            HARMS[name](root / path)

    _same_or_one_line(whole, tmp_path_factory.getbasetemp() / "copy", harm)


@settings(max_examples=12)
@given(st.dictionaries(
    st.sampled_from([*LEDGER_FIELDS, "files", "transient"]),
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=5),
              st.lists(st.text(max_size=5), max_size=2), st.dictionaries(st.text(max_size=9), st.none(), max_size=2)),
    min_size=1, max_size=3,
))  # fmt: skip
def test_a_manifest_with_any_fields(tmp_path_factory, fields):
    """Every command on the store ends, with what is damaged set aside; no letter reaches the terminal as a command."""
    root = tmp_path_factory.getbasetemp() / "fields"
    shutil.rmtree(root, ignore_errors=True)
    store = Store(root)
    put(store)
    path = store.folder(KEY) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMMUNEBENCH_STORE", str(root))
        for command, code in (("ls", 0), ("verify", None), ("gc", 0)):
            done = immunebench("store", command)
            assert done.returncode in ((0, 1) if code is None else (code,))
            assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: shutil.rmtree(root / "locks") or (root / "locks").write_text(""), "File exists"),
        (lambda root: (root / "locks" / KEY).mkdir(), f"locks/{KEY}: Is a directory"),
        (lambda root: (root / "locks" / KEY).symlink_to("/absent/file"), f"locks/{KEY}: Too many levels"),
        (lambda root: (root / "artifacts" / KEY[:2]).write_text(""), f"artifacts/{KEY[:2]}.*: Not a directory"),
    ],
)
def test_a_part_that_cannot_be_used_is_one_line(harm, message):
    harm(Store().root)
    with pytest.raises((StoreError, UsageError), match=f"cannot use the store .*{message}"):
        put(Store())


def test_what_no_store_has_written_is_no_obstacle():
    store = Store()
    put(store)
    (store.root / "tmp" / "note.txt").write_text("mine")
    (store.root / "tmp" / ("cd" * 32)).write_text("mine")
    for folder in ("locks", "runs"):
        (store.root / folder / "x.json").mkdir()
    (store.root / "artifacts" / "loop").symlink_to("loop")
    put(store, key="cd" * 32)
    assert immunebench("store", "gc").returncode == 0
    assert sorted(path.name for folder in ("tmp", "locks", "runs") for path in (store.root / folder).iterdir()) == []
    assert len(store.keys()) == 2


def test_folders_on_two_file_systems_are_one_line(tmp_path, monkeypatch):
    def rename(self: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self), None, str(target))

    store = Store()
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StoreError, match="cross-device link; finished jobs are kept: keep all its folders on one file"):
        put(store)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_refused_before_anything_is_computed(monkeypatch, number):
    def flock(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UsageError, match=r"cannot use the store .*set IMMUNEBENCH_STORE to") as caught:
        Store()
    assert "\n" not in str(caught.value)


def test_a_damaged_ledger_is_reported_in_one_line():
    store, lines = Store(), []
    put(store)
    with (store.root / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b"null\n\xff\n")
    assert len(store.ledger(lines.append)) == 1
    assert lines == [
        f"{store.root}/ledger.jsonl, from which times are estimated, has 2 damaged lines, which are left out"
    ]
