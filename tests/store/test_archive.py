"""Archives of artifacts: import gives what export wrote, and nothing else."""

import io
import json
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from harness.bounded import file_digest
from harness.errors import UsageError
from harness.store import Store
from harness.store import archive as archives
from tests.helpers import ABOUT, put
from tests.runs import plan, run

KEYS = ["ab" * 32, "cd" * 32]


@pytest.fixture
def archive(tmp_path):
    store = Store(tmp_path / "from")
    put(store, b"one", KEYS[0])
    with store.write(KEYS[1], ABOUT | {"stage": "s"}) as out:
        (out / "attacked").mkdir()
        (out / "attacked" / "adapter.safetensors").write_bytes(b"two")
        (out / "values.json").write_text("[]")
    path = tmp_path / "artifacts.tar"
    assert archives.export(store, [*KEYS, "ef" * 32], path) == KEYS
    return path


def rewritten(archive, change):
    """The archive with its members, (name, content), as `change` makes them."""
    with tarfile.open(archive) as old:
        members = [(member.name, old.extractfile(member).read()) for member in old]
    with tarfile.open(archive, "w") as new:
        for name, content in change(members):
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return archive


def test_import_gives_what_export_wrote(archive, tmp_path):
    store = Store(tmp_path / "to")
    assert archives.import_(store, archive) == (KEYS, [])
    assert archives.import_(store, archive) == ([], KEYS)
    assert (store.open(KEYS[0]) / "data.json").read_bytes() == b"one"
    assert (store.open(KEYS[1]) / "attacked" / "adapter.safetensors").read_bytes() == b"two"
    assert not list((store.root / "tmp").iterdir())


LINK = tarfile.TarInfo(f"{KEYS[0]}/link.json")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
SPARSE = tarfile.TarInfo(f"{KEYS[0]}/sparse.json")
SPARSE.type = tarfile.GNUTYPE_SPARSE  # a few bytes that unpack to any size


@pytest.mark.parametrize(
    "foreign",
    ["../x.json", f"{KEYS[0]}/../x.json", f"/{KEYS[0]}/x.json", "x.json", f"{KEYS[0]}/x.pkl", LINK, SPARSE],
    ids=lambda member: getattr(member, "name", member),
)  # fmt: skip
def test_other_files_in_an_archive_are_refused(archive, tmp_path, foreign):
    store = Store(tmp_path / "to")
    rewritten(archive, lambda members: [(foreign, b""), *members])
    with pytest.raises(UsageError, match="is no file of an artifact; nothing after it was imported"):
        archives.import_(store, archive)
    assert store.keys() == []
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("harm", ["change", "lose", "add", "manifest", "no seconds", "no files", "outside", "depth"])
def test_a_damaged_artifact_is_refused_and_what_came_before_stays(archive, tmp_path, harm):
    def change(members):
        files = dict(members)
        if harm == "change":
            files[f"{KEYS[1]}/values.json"] = b"[1]"
        elif harm == "lose":
            del files[f"{KEYS[1]}/values.json"]
        elif harm == "add":
            files[f"{KEYS[1]}/more.json"] = b""
        else:
            manifest = json.loads(files[f"{KEYS[1]}/manifest.json"])
            outside = tmp_path / "outside.json"
            outside.write_bytes(b"mine")
            digests = dict(list(manifest["files"].items())[1:]) | {str(outside): file_digest(outside)}
            changed = {
                "manifest": {**manifest, "key": KEYS[0]},
                "no seconds": {name: value for name, value in manifest.items() if name != "seconds"},
                "no files": {**manifest, "files": []},
                "outside": {**manifest, "files": digests},
            }
            text = "[" * 200_000 if harm == "depth" else json.dumps(changed[harm])
            files[f"{KEYS[1]}/manifest.json"] = text.encode()
        return files.items()

    store = Store(tmp_path / "to")
    rewritten(archive, change)
    with pytest.raises(UsageError, match="artifact cdcdcdcdcdcd is damaged or incomplete"):
        archives.import_(store, archive)
    assert store.keys() == KEYS[:1]
    assert not list((store.root / "tmp").iterdir())


def test_files_that_are_no_archives_are_refused(tmp_path, archive):
    with pytest.raises(UsageError, match=r"cannot read .*absent\.tar"):
        archives.import_(Store(), tmp_path / "absent.tar")
    (tmp_path / "text.tar").write_text("no archive")
    with pytest.raises(UsageError, match=r"cannot read .*text\.tar as an uncompressed tar"):
        archives.import_(Store(), tmp_path / "text.tar")
    archive.write_bytes(archive.read_bytes()[:-12000])
    with pytest.raises(UsageError, match=r"cannot read|damaged or incomplete"):
        archives.import_(Store(), archive)
    with pytest.raises(UsageError, match="cannot write"):
        archives.export(Store(), [], Path("/proc/where.tar"))


def test_with_imported_baselines_only_the_new_defense_is_computed(tmp_path):
    theirs, ours = Store(tmp_path / "theirs"), Store(tmp_path / "ours")
    first = run(store=theirs, defenses=["none"])
    archives.export(theirs, first.plan.jobs, tmp_path / "baselines.tar")
    archives.import_(ours, tmp_path / "baselines.tar")
    second = run(store=ours, defenses=["none", "shrinking"])
    assert not second.failed
    new = set(second.plan.jobs) - set(plan(defenses=["none"]).jobs)
    assert {entry["key"] for entry in ours.ledger()} <= new
    assert {entry["plugin"] for entry in ours.ledger() if entry["stage"] == "adapt"} == {"shrinking", "full_descent"}
    rows = second.values[second.values["defense"] == "none"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, first.values)
