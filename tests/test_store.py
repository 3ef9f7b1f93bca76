"""Artifacts: whole or absent, checked, and refused where they cannot be kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.store import Store, default_root

KEY = "ab" * 32
ABOUT = {"track": "t", "stage": "s", "plugin": None}


def put(store, content=b"figures", key=KEY):
    with store.writing(key, ABOUT) as out:
        (out / "data.bin").write_bytes(content)


def test_written_then_found():
    store = Store()
    assert not store.has(KEY)
    assert store.open(KEY) is None
    put(store)
    folder = store.open(KEY)
    assert folder is not None
    assert (folder / "data.bin").read_bytes() == b"figures"
    assert store.manifest(KEY)["stage"] == "s"
    assert not list((store.root / "tmp").iterdir())


def test_the_root_is_the_environments(store_root):
    assert default_root() == store_root


def test_an_error_while_writing_leaves_nothing():
    store = Store()

    def write_half():
        with store.writing(KEY, ABOUT) as out:
            (out / "data.bin").write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert not store.has(KEY)
    assert not list((store.root / "tmp").iterdir())


def test_the_first_of_two_writers_stays():
    store = Store()
    with store.writing(KEY, ABOUT) as out:
        put(Store(), b"first")
        (out / "data.bin").write_bytes(b"second")
    assert (store.folder(KEY) / "data.bin").read_bytes() == b"first"


@pytest.mark.parametrize("harm", ["change", "truncate", "remove", "manifest", "swap"])
def test_damage_is_set_aside(harm):
    put(Store())
    put(Store(), b"other", "cd" * 32)
    folder = Store().folder(KEY)
    if harm == "change":
        (folder / "data.bin").write_bytes(b"figurez")
    elif harm == "truncate":
        (folder / "data.bin").write_bytes(b"fig")
    elif harm == "remove":
        (folder / "data.bin").unlink()
    elif harm == "manifest":
        (folder / "manifest.json").write_text("{half")
    else:
        (folder / "manifest.json").write_text((Store().folder("cd" * 32) / "manifest.json").read_text())
    store = Store()  # another process: nothing checked yet
    assert store.open(KEY) is None
    assert not store.has(KEY)
    assert [path.name[: len(KEY)] for path in (store.root / "damaged").iterdir()] == [KEY]
    put(store)
    assert store.open(KEY) is not None


def test_discarded_is_absent():
    store = Store()
    put(store)
    store.discard(KEY)
    store.discard(KEY)
    assert not store.has(KEY)
    assert store.open(KEY) is None


def test_the_ledger_survives_a_cut_line():
    store = Store()
    put(store)
    with (store.root / "ledger.jsonl").open("a") as ledger:
        ledger.write('{"track": "t", "st')
    (entry,) = store.ledger()
    assert entry["stage"] == "s"
    assert entry["seconds"] >= 0


def test_a_store_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="cannot write to the store /proc/here"):
        Store("/proc/here")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to the store"):
        Store(tmp_path / "file")


def test_a_full_store_is_one_clear_line(tmp_path: Path):
    """The kernel refuses to write more than 64 KiB to any file: what a full disk does, in a process of its own."""
    code = f"""
import resource, json
from harness.store import Store, StoreError
store = Store({str(tmp_path / "full")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
with store.writing({KEY!r}, {ABOUT!r}) as out:
    (out / "small").write_bytes(b"x")
try:
    with store.writing({"cd" * 32!r}, {ABOUT!r}) as out:
        (out / "large").write_bytes(b"x" * 10**6)
except StoreError as error:
    print(json.dumps([str(error), store.has({KEY!r}), store.has({"cd" * 32!r})]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, kept, broken = json.loads(done.stdout)
    assert "make room and run the same command again" in told
    assert kept
    assert not broken
