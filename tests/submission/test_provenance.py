"""Where values come from: the checkout."""

import subprocess

import pytest

from harness.submission import provenance


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")
    return tmp_path


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_checkout(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert provenance.git(checkout) == {"commit": commit, "dirty": False}
    (checkout / "notes.txt").write_text("not tracked")
    assert provenance.git(checkout) == {"commit": commit, "dirty": False}
    (checkout / "harness" / "__init__.py").write_text("changed = 1")
    assert provenance.git(checkout) == {"commit": commit, "dirty": True}


def test_no_checkout(checkout, tmp_path_factory, monkeypatch):
    """Nothing around it; an installed copy inside of somebody else's repository; no git."""
    assert provenance.git(tmp_path_factory.mktemp("plain")) is None
    installed = checkout / "venv" / "harness"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert provenance.git(checkout / "venv") is None
    monkeypatch.setenv("PATH", "")
    assert provenance.git(checkout) is None
