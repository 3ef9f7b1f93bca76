"""Archives of artifacts: what goes in comes out, and nothing else."""

import io
import json
import tarfile

import pandas as pd
import pytest

from harness import api
from harness.errors import UsageError
from harness.plan import make
from harness.store import Store
from harness.store import archive as exchange
from harness.suite import load
from tests.helpers import put

KEYS = ["ab" * 32, "cd" * 32]


@pytest.fixture
def archive(tmp_path):
    store = Store(tmp_path / "from")
    put(store, b"one", KEYS[0])
    with store.writing(KEYS[1], {"stage": "s"}) as out:
        (out / "attacked").mkdir()
        (out / "attacked" / "adapter.safetensors").write_bytes(b"two")
        (out / "records.json").write_text("[]")
    path = tmp_path / "artifacts.tar"
    assert exchange.export(store, [*KEYS, "ef" * 32], path) == KEYS
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


def test_export_and_import_round_trip(archive, tmp_path):
    store = Store(tmp_path / "to")
    assert exchange.import_(store, archive) == (KEYS, [])
    assert exchange.import_(store, archive) == ([], KEYS)
    assert (store.open(KEYS[0]) / "data.json").read_bytes() == b"one"
    assert (store.open(KEYS[1]) / "attacked" / "adapter.safetensors").read_bytes() == b"two"
    assert not list((store.root / "tmp").iterdir())


LINK = tarfile.TarInfo(f"{KEYS[0]}/link.json")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"


@pytest.mark.parametrize(
    "foreign",
    ["../x.json", f"{KEYS[0]}/../x.json", f"/{KEYS[0]}/x.json", "x.json", f"{KEYS[0]}/x.pkl", LINK],
    ids=lambda of: getattr(of, "name", of),
)  # fmt: skip
def test_members_that_are_no_artifacts_are_refused(archive, tmp_path, foreign):
    store = Store(tmp_path / "to")
    rewritten(archive, lambda members: [(foreign, b""), *members])
    with pytest.raises(UsageError, match="is no file of an artifact; it was not taken over"):
        exchange.import_(store, archive)
    assert store.keys() == []
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("harm", ["change", "lose", "add", "manifest"])
def test_a_damaged_artifact_is_refused_and_earlier_ones_stay(archive, tmp_path, harm):
    def change(members):
        found = dict(members)
        if harm == "change":
            found[f"{KEYS[1]}/records.json"] = b"[1]"
        elif harm == "lose":
            del found[f"{KEYS[1]}/records.json"]
        elif harm == "add":
            found[f"{KEYS[1]}/more.json"] = b""
        else:
            manifest = json.loads(found[f"{KEYS[1]}/manifest.json"])
            found[f"{KEYS[1]}/manifest.json"] = json.dumps({**manifest, "key": KEYS[0]}).encode()
        return found.items()

    store = Store(tmp_path / "to")
    rewritten(archive, change)
    with pytest.raises(UsageError, match="artifact cdcdcdcdcdcd is damaged or not whole"):
        exchange.import_(store, archive)
    assert store.keys() == KEYS[:1]
    assert not list((store.root / "tmp").iterdir())


def test_other_files_are_refused(tmp_path, archive):
    with pytest.raises(UsageError, match=r"cannot read .*absent\.tar"):
        exchange.import_(Store(), tmp_path / "absent.tar")
    (tmp_path / "text.tar").write_text("no archive")
    with pytest.raises(UsageError, match=r"cannot read .*text\.tar as an uncompressed tar"):
        exchange.import_(Store(), tmp_path / "text.tar")
    archive.write_bytes(archive.read_bytes()[:-12000])
    with pytest.raises(UsageError, match=r"cannot read|damaged or not whole"):
        exchange.import_(Store(), archive)
    with pytest.raises(UsageError, match="cannot write"):
        exchange.export(Store(), [], tmp_path / "no" / "where.tar")


def test_with_imported_baselines_only_a_new_defense_is_run(tiny, tmp_path):
    """Whoever imports the baselines' artifacts computes nothing of theirs, and gets the same figures."""
    there, mine = tmp_path / "there", tmp_path / "mine"
    theirs = api.run(str(tiny), store=there, workers=1)
    exchange.export(Store(there), make(load(str(tiny))).jobs, tmp_path / "baselines.tar")
    exchange.import_(Store(mine), tmp_path / "baselines.tar")
    ours = api.run(str(tiny), defenses=["none", "random_init", "condition_number", "whitening"], store=mine, workers=1)
    assert not ours.failed
    immunized = {entry["plugin"] for entry in Store(mine).ledger() if entry["stage"] == "immunize"}
    assert immunized == {"whitening"}
    attacks = sum(entry["stage"] == "attack" for entry in Store(mine).ledger())
    assert attacks == sum(job.stage == "attack" and job.parents["model"].plugin.name == "whitening"
                          for job in make(load(str(tiny), defenses=["whitening"])).jobs.values())  # fmt: skip
    # To the second that was metered: the very records.
    pd.testing.assert_frame_equal(
        ours.records[ours.records["defense"] != "whitening"].reset_index(drop=True), theirs.records
    )
