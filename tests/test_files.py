"""Paths that people give, and files and folders that are written whole or not at all."""

import errno
import threading
from pathlib import Path

import pytest

from harness import files
from harness.errors import RunError, UsageError
from harness.files import CONTENTS


def written(folder: Path) -> dict[str, str]:
    """The texts of the files in a folder, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != CONTENTS]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def put(folder: Path, owner: str, **texts: str) -> None:
    """Write files into a folder for an owner, by `replacing`."""
    with files.replacing(files.claim(folder, owner, list(texts)), owner) as new:
        for name, text in texts.items():
            path = new / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(path, text)


@pytest.fixture
def full_disk(monkeypatch):
    """A disk without room: files can be created, but not written."""

    def write_bytes(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("~/x", "/home/me/x"), ("~", "/home/me"), ("x", "/suite/x"), ("/x", "/x"), ("a~/x", "/suite/a~/x")],
)
def test_a_path_that_people_give(path, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.user_path(path, Path("/suite")) == Path(expected)
    assert files.user_path(Path(path), Path("/suite")) == Path(expected)


def test_an_unknown_home_folder_is_one_line():
    with pytest.raises(UsageError, match=r"there is no such home folder; write \./~nobody-here/x"):
        files.user_path("~nobody-here/x")


def test_text_is_utf_8(tmp_path):
    files.write_text(tmp_path / "x", "κ\n")
    assert (tmp_path / "x").read_bytes() == b"\xce\xba\n"


def test_a_failed_write_leaves_the_older_file(tmp_path, full_disk):
    (tmp_path / "x").write_text("older")
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "x", "newer")
    assert written(tmp_path) == {"x": "older"}


def test_files_of_one_owner_replace_each_other_and_no_others(tmp_path):
    (tmp_path / "mine.txt").write_text("a note of the user")
    put(tmp_path, "suite s", a="1", gone="1", deep__gone="1", deep__er__gone="1")
    (tmp_path / "deep" / "mine.txt").write_text("another note")
    put(tmp_path, "suite s", a="2", b="2")
    assert written(tmp_path) == {
        "mine.txt": "a note of the user", "deep/mine.txt": "another note", "a": "2", "b": "2",
    }  # fmt: skip
    assert not (tmp_path / "deep" / "er").exists()
    assert {path.name for path in tmp_path.iterdir()} == {CONTENTS, "mine.txt", "deep", "a", "b"}


def test_kept_files_still_belong_to_the_owner(tmp_path):
    put(tmp_path, "suite s", run="1", board="1")
    with files.replacing(tmp_path, "suite s", keep=["run", "absent"]) as new:
        files.write_text(new / "board", "2")
    assert written(tmp_path) == {"run": "1", "board": "2"}
    put(tmp_path, "suite s", board="3")
    assert written(tmp_path) == {"board": "3"}


@pytest.mark.parametrize("names", [["new"], None])
def test_a_folder_of_another_owner_is_refused(names, tmp_path):
    put(tmp_path, "suite s", a="1")
    with pytest.raises(UsageError, match=r"holds the files of suite s: choose another folder, or delete this one"):
        files.claim(tmp_path, "suite other", names)
    assert files.claim(tmp_path, "suite s", names) == tmp_path


@pytest.mark.parametrize("names", [["mine", "other"], None])
def test_a_file_of_another_origin_is_not_overwritten(names, tmp_path):
    (tmp_path / "mine").write_text("1")
    with pytest.raises(UsageError, match="has a file mine of another origin"):
        files.claim(tmp_path, "suite s", names)
    assert files.claim(tmp_path, "suite s", ["other"]) == tmp_path


def test_a_folder_in_the_place_of_a_file_is_not_overwritten(tmp_path):
    put(tmp_path, "suite s", a="1", b="1")
    (tmp_path / "b").unlink()
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match="has a file b of another origin"):
        files.claim(tmp_path, "suite s", ["a", "b"])


def test_a_failure_while_writing_leaves_the_older_files(tmp_path, request):
    put(tmp_path, "suite s", a="1", gone="1")
    request.getfixturevalue("full_disk")
    with pytest.raises(RunError, match=r"No space left on device; its files are the earlier ones"):
        put(tmp_path, "suite s", a="2", b="2")
    assert written(tmp_path) == {"a": "1", "gone": "1"}
    assert {path.name for path in tmp_path.iterdir()} == {CONTENTS, "a", "gone"}


def test_an_error_in_the_block_leaves_the_older_files(tmp_path):
    put(tmp_path, "suite s", a="1")

    def write_half() -> None:
        with files.replacing(tmp_path, "suite s") as new:
            files.write_text(new / "a", "2")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        write_half()
    assert written(tmp_path) == {"a": "1"}


def test_two_processes_do_not_mix_their_files(tmp_path):
    def second() -> None:
        put(tmp_path, "suite s", a="second", c="second")

    with files.replacing(tmp_path, "suite s") as new:
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        for name in ("a", "b"):
            files.write_text(new / name, "first")
    waiting.join(10)
    assert written(tmp_path) == {"a": "second", "c": "second"}


def test_what_a_killed_process_left_is_cleaned_up(tmp_path):
    (tmp_path / f"{CONTENTS}.new").mkdir()
    (tmp_path / f"{CONTENTS}.new" / "half").write_text("1")
    (tmp_path / f"{CONTENTS}.lock").touch()
    files.claim(tmp_path, "a site")
    put(tmp_path, "a site", a="1")
    assert {path.name for path in tmp_path.iterdir()} == {CONTENTS, "a"}


@pytest.mark.parametrize("outside", ["../outside", "link/outside", "{}/outside"])
def test_a_list_of_files_leads_nowhere_outside(outside, tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
    (folder / "link").symlink_to(elsewhere)
    for place in (tmp_path, elsewhere):
        (place / "outside").write_text("1")
    files.record(folder, "suite s", [outside.format(tmp_path)])
    put(folder, "suite s", a="1")
    assert (tmp_path / "outside").exists()
    assert (elsewhere / "outside").exists()


@pytest.mark.parametrize("make", [lambda folder: folder / "file", lambda folder: folder / "file" / "x",
                                  lambda folder: Path("/proc/x"), lambda folder: folder / "a\0b"])  # fmt: skip
def test_a_folder_that_cannot_be_written_is_one_line(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to the folder") as error:
        files.check_folder(make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_folder_is_no_file_to_write(name):
    with pytest.raises(UsageError, match="it is a folder; name a file"):
        files.check_file(Path(name))


def test_a_name_that_is_too_long_for_a_file():
    files.check_name("字" * 70)
    with pytest.raises(UsageError, match="is too long: shorten the labels"):
        files.check_name("字" * 100)
