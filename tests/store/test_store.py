"""Artifacts are whole or absent, checked when opened, and locked while they are written."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.store import Busy, Store, StoreError, default_root
from harness.store import store as store_module
from harness.store.store import LEDGER_FIELDS
from tests.helpers import ABOUT, KEY, immunebench, put


def test_an_artifact_is_written_and_opened():
    store = Store()
    assert not store.has(KEY)
    assert store.open(KEY) is None
    put(store)
    folder = store.open(KEY)
    assert folder is not None
    assert (folder / "data.json").read_bytes() == b"values"
    assert store.manifest(KEY)["stage"] == "s"
    assert not list((store.root / "tmp").iterdir())


def test_the_environment_sets_the_root(store_root, tmp_path, monkeypatch):
    assert default_root() == store_root
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IMMUNEBENCH_STORE", "~/mine")
    assert Store().root == tmp_path / "mine"
    assert Store("~/other").root == tmp_path / "other"


def test_an_error_while_writing_leaves_nothing():
    store = Store()

    def write_half():
        with store.write(KEY, ABOUT) as out:
            (out / "data.json").write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert not store.has(KEY)
    assert not list((store.root / "tmp").iterdir())


def test_two_writers_never_write_one_artifact():
    """The second one gets `Busy`, or waits and then finds the artifact."""
    store, folders = Store(), []

    def second():
        with Store().write(KEY, dict(ABOUT)) as out:
            folders.append(out)

    with store.write(KEY, dict(ABOUT)) as out:
        with pytest.raises(Busy), Store().write(KEY, dict(ABOUT), wait=False):
            pass
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        (out / "data.json").write_bytes(b"first")
    waiting.join(5)
    assert folders == [None]
    assert (store.folder(KEY) / "data.json").read_bytes() == b"first"
    assert not list((store.root / "locks").iterdir())


KILLED = """
import os, signal, sys
from harness.store import Store
store = Store()
with store.pin([sys.argv[1]]), store.write(sys.argv[1], {}) as out:
    (out / "data.json").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(key):
    done = subprocess.run([sys.executable, "-c", KILLED, key], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_killed_process_leaves_no_locks_and_no_pins():
    killed_while_writing(KEY)
    store = Store()
    assert len(list((store.root / "tmp").iterdir())) == 1
    put(store)
    assert not list((store.root / "tmp").iterdir())
    assert store.pinned() == set()
    assert not list((store.root / "runs").iterdir())


def test_gc_removes_leftovers_and_keeps_pinned_artifacts():
    store = Store()
    keys = {name: f"{number:02x}" * 32 for number, name in enumerate(("kept", "dropped", "pinned", "old", "broken"))}
    for name, key in keys.items():
        put(store, key=key, transient=name in ("dropped", "pinned"))
    (store.folder(keys["broken"]) / "data.json").write_bytes(b"damage")
    assert Store().open(keys["broken"]) is None
    killed_while_writing(KEY)
    os.utime(store.folder(keys["old"]) / "manifest.json", (0, 0))
    with Store().pin([keys["pinned"]]), store.write("ff" * 32, dict(ABOUT)) as out:
        (out / "data.json").write_bytes(b"now")
        freed, count = store.collect(dry_run=True)
        assert count == 3  # dropped, broken, and the killed process's folder
        assert len(store.keys()) == 4
        assert store.collect() == (freed, count)
        assert store.collect() == (0, 0)
        assert set(store.keys()) == {keys["kept"], keys["pinned"], keys["old"]}
        assert store.collect(unused=3600, keep=[keys["old"]]) == (0, 0)
        assert store.collect(unused=3600)[1] == 1
    assert store.has("ff" * 32)
    assert store.collect()[1] == 1  # the transient artifact is not pinned any more
    assert set(store.keys()) == {keys["kept"], "ff" * 32}


def test_a_clock_that_is_ahead_removes_nothing(monkeypatch):
    store = Store()
    put(store)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 400 * 86400)
    with pytest.raises(UsageError, match=r"nothing in the store .* was used within 30 days, by the clock"):
        store.collect(unused=30 * 86400)
    assert store.keys() == [KEY]
    assert store.collect(unused=0)[1] == 1


def test_a_store_that_may_not_be_written_can_be_read(tmp_path, monkeypatch):
    put(Store())

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store_module, "_check_locks", refuse)
    monkeypatch.setattr(store_module.FileLock, "acquire", refuse)
    assert "1 | 0.0" in re.sub(" +", " ", immunebench("store", "ls").stdout)
    assert immunebench("store", "export", tmp_path / "file.tar").returncode == 0
    with pytest.raises(StoreError, match="Read-only file system; finished jobs are kept: make it writable"):
        put(Store(), key="cd" * 32)
    with pytest.raises(UsageError, match="Read-only file system"):
        Store(tmp_path / "new")


def test_a_worker_refuses_another_store_under_the_same_path(tmp_path):
    store = Store()
    assert Store().identity == store.identity
    assert Store.connect(store.root, store.identity).identity == store.identity
    for root in (tmp_path / "elsewhere", Store(tmp_path / "other").root):
        with pytest.raises(
            StoreError, match=r"does not see the run's store .*: set IMMUNEBENCH_STORE to a folder that has"
        ):
            Store.connect(root, store.identity)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("number", "remedy"), [(1, "delete or move the folder"), (3, "upgrade immunebench")])
def test_a_store_of_another_format_is_refused_in_one_line(number, remedy):
    root = Store().root
    (root / "store.json").write_text(json.dumps({"format": number, "identity": "x"}))
    with pytest.raises(UsageError, match=f"has format {number}, this harness uses format 2: {remedy}") as error:
        Store()
    assert str(root) in str(error.value)
    assert "IMMUNEBENCH_STORE" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "harm", ["change", "truncate", "remove", "manifest", "no manifest", "swap", "no seconds", "bytes"]
)
def test_damaged_artifacts_are_set_aside(harm):
    put(Store())
    put(Store(), b"other", "cd" * 32)
    folder = Store().folder(KEY)
    if harm == "change":
        (folder / "data.json").write_bytes(b"valuez")
    elif harm == "truncate":
        (folder / "data.json").write_bytes(b"val")
    elif harm == "remove":
        (folder / "data.json").unlink()
    elif harm == "no manifest":
        (folder / "manifest.json").unlink()
    elif harm == "manifest":
        (folder / "manifest.json").write_text("{half")
    elif harm == "no seconds":
        (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace("seconds", "secondr"))
    elif harm == "bytes":
        (folder / "manifest.json").write_bytes(b"\xff")
    else:
        (folder / "manifest.json").write_text((Store().folder("cd" * 32) / "manifest.json").read_text())
    store = Store()  # another process: nothing checked yet
    assert store.open(KEY) is None
    assert not store.has(KEY)
    put(store)
    assert [path.name[: len(KEY)] for path in (store.root / "damaged").iterdir()] == [KEY]
    assert store.open(KEY) is not None


def test_discarded_artifacts_are_absent():
    store = Store()
    put(store)
    store.discard(KEY)
    store.discard(KEY)
    assert not store.has(KEY)
    assert store.open(KEY) is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"track": "t", "st', b"null", b"3", b"\xff", b'{"key": "a", "track": "t", "stage": "s", "work": 3}',
        b'{"key": "a", "track": "t", "stage": "s", "seconds": "x"}', b'{"key": "a", "seconds": 1}',
        b'{"key": "a", "track": "t", "stage": "s", "seconds": NaN}',
    ],
)  # fmt: skip
def test_the_ledger_survives_a_damaged_line(line):
    store = Store()
    put(store)
    with (store.root / "ledger.jsonl").open("ab") as ledger:
        ledger.write(line + b"\n")
    (entry,) = store.ledger()
    assert tuple(entry) == LEDGER_FIELDS
    assert (entry["key"], entry["stage"]) == (KEY, "s")
    assert entry["seconds"] >= 0


def test_a_ledger_that_cannot_be_used_costs_no_artifact():
    store = Store()
    (store.root / "ledger.jsonl").mkdir()
    put(store)
    assert store.open(KEY) is not None
    assert store.ledger() == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 2}', '{"identity": "x"}', '{"format": "2", "identity": "x"}', "\x80"]
)
def test_a_damaged_store_json_is_replaced(text):
    store = Store()
    put(store)
    (store.root / "store.json").write_bytes(text.encode("latin-1"))
    healed = Store()
    assert healed.identity != store.identity
    assert Store().identity == healed.identity
    assert healed.open(KEY) is not None


def test_a_file_in_the_place_of_a_folder_is_one_line():
    put(Store())
    store = Store()
    (store.folder(KEY) / "data.json").unlink()
    (store.root / "damaged").rmdir()
    (store.root / "damaged").write_text("")
    with pytest.raises(StoreError, match=r"cannot use the store .*: File exists; finished jobs are kept"):
        store.open(KEY)


def test_errors_of_a_job_are_no_errors_of_the_store():
    def read_absent_file():
        with Store().write(KEY, dict(ABOUT)) as out:
            (out / "absent" / "file").write_bytes(b"")

    with pytest.raises(FileNotFoundError):
        read_absent_file()


def test_a_store_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="cannot use the store /proc/here"):
        Store("/proc/here")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot use the store"):
        Store(tmp_path / "file")


def test_a_full_store_is_one_clear_line(tmp_path: Path):
    """The kernel refuses to write more than 64 KiB to any file, as a full disk does; in a process of its own."""
    code = f"""
import resource, json
from harness.store import Store, StoreError
store = Store({str(tmp_path / "full")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
with store.write({KEY!r}, {ABOUT!r}) as out:
    (out / "small").write_bytes(b"x")
try:
    with store.write({"cd" * 32!r}, {ABOUT!r}) as out:
        (out / "large").write_bytes(b"x" * 10**6)
except StoreError as error:
    print(json.dumps([str(error), store.has({KEY!r}), store.has({"cd" * 32!r})]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    message, kept, broken = json.loads(done.stdout)
    assert "free some space and run the same command again" in message
    assert kept
    assert not broken
