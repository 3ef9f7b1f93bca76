"""Artifacts: whole or absent, checked, and refused where they cannot be kept."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.store import Busy, Store, StoreError, default_root
from tests.helpers import ABOUT, KEY, put


def test_an_artifact_is_found_once_written():
    store = Store()
    assert not store.has(KEY)
    assert store.open(KEY) is None
    put(store)
    folder = store.open(KEY)
    assert folder is not None
    assert (folder / "data.json").read_bytes() == b"figures"
    assert store.manifest(KEY)["stage"] == "s"
    assert not list((store.root / "tmp").iterdir())


def test_the_root_is_the_environments(store_root):
    assert default_root() == store_root


def test_an_error_while_writing_leaves_nothing():
    store = Store()

    def write_half():
        with store.writing(KEY, ABOUT) as out:
            (out / "data.json").write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert not store.has(KEY)
    assert not list((store.root / "tmp").iterdir())


def test_two_writers_never_write_the_same():
    """The second is told that it is being written, or waits and then finds it."""
    store, found = Store(), []

    def second():
        with Store().writing(KEY, dict(ABOUT)) as out:
            found.append(out)

    with store.writing(KEY, dict(ABOUT)) as out:
        with pytest.raises(Busy), Store().writing(KEY, dict(ABOUT), wait=False):
            pass
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        (out / "data.json").write_bytes(b"first")
    waiting.join()
    assert found == [None]
    assert (store.folder(KEY) / "data.json").read_bytes() == b"first"
    assert not list((store.root / "locks").iterdir())


KILLED = """
import os, signal, sys
from harness.store import Store
store = Store()
with store.needing([sys.argv[1]]), store.writing(sys.argv[1], {}) as out:
    (out / "data.json").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(key):
    done = subprocess.run([sys.executable, "-c", KILLED, key], check=False)
    assert done.returncode == -signal.SIGKILL


def test_locks_of_a_killed_process_are_released():
    killed_while_writing(KEY)
    store = Store()
    assert len(list((store.root / "tmp").iterdir())) == 1
    put(store)
    assert not list((store.root / "tmp").iterdir())
    assert store.needed() == set()
    assert not list((store.root / "runs").iterdir())


def test_gc_removes_unused_artifacts_and_none_that_a_run_needs():
    store = Store()
    keys = {name: f"{number:02x}" * 32 for number, name in enumerate(("kept", "dropped", "needed", "old", "broken"))}
    for name, key in keys.items():
        put(store, key=key, transient=name in ("dropped", "needed"))
    (store.folder(keys["broken"]) / "data.json").write_bytes(b"damage")
    assert Store().open(keys["broken"]) is None
    killed_while_writing(KEY)
    os.utime(store.folder(keys["old"]) / "manifest.json", (0, 0))
    with Store().needing([keys["needed"]]), store.writing("ff" * 32, dict(ABOUT)) as out:
        (out / "data.json").write_bytes(b"now")
        freed, count = store.collect(dry_run=True)
        assert count == 3  # dropped, broken, and what was left by the kill
        assert len(store.keys()) == 4
        assert store.collect() == (freed, count)
        assert store.collect() == (0, 0)
        assert set(store.keys()) == {keys["kept"], keys["needed"], keys["old"]}
        assert store.collect(unused=3600, keep=[keys["old"]]) == (0, 0)
        assert store.collect(unused=3600)[1] == 1
    assert store.has("ff" * 32)
    assert store.collect()[1] == 1  # nobody needs the transient one now
    assert set(store.keys()) == {keys["kept"], "ff" * 32}


def test_a_store_is_known_by_its_identity(tmp_path):
    """So that a worker that sees another folder under the path of the run's store says so."""
    store = Store()
    assert Store().identity == store.identity
    assert Store.at(store.root, store.identity).identity == store.identity
    for root in (tmp_path / "elsewhere", Store(tmp_path / "other").root):
        with pytest.raises(StoreError, match=r"does not see the store .*: put the store where all"):
            Store.at(root, store.identity)
    assert not (tmp_path / "elsewhere").exists()
    (store.root / "store.json").write_text('{"format": 2, "identity": "x"}')
    with pytest.raises(UsageError, match="has format 2; this harness knows up to 1: upgrade"):
        Store()


@pytest.mark.parametrize("harm", ["change", "truncate", "remove", "manifest", "no manifest", "swap"])
def test_damaged_artifacts_are_moved_aside(harm):
    put(Store())
    put(Store(), b"other", "cd" * 32)
    folder = Store().folder(KEY)
    if harm == "change":
        (folder / "data.json").write_bytes(b"figurez")
    elif harm == "truncate":
        (folder / "data.json").write_bytes(b"fig")
    elif harm == "remove":
        (folder / "data.json").unlink()
    elif harm == "no manifest":
        (folder / "manifest.json").unlink()
    elif harm == "manifest":
        (folder / "manifest.json").write_text("{half")
    else:
        (folder / "manifest.json").write_text((Store().folder("cd" * 32) / "manifest.json").read_text())
    store = Store()  # another process: nothing checked yet
    assert store.open(KEY) is None
    assert not store.has(KEY)
    put(store)
    assert [path.name[: len(KEY)] for path in (store.root / "damaged").iterdir()] == [KEY]
    assert store.open(KEY) is not None


def test_a_discarded_artifact_is_absent():
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
