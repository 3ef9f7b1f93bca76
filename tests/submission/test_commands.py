"""`immunebench submit` and `immunebench verify`."""

import json
import shutil

import pytest

from harness.submission import merge, pack, read_write
from harness.submission import tier as tiers
from harness.submission.schema import FORMAT
from tests.helpers import immunebench
from tests.submission.forge import BAD, content_of, find, write_content


def test_verify(honest, tmp_path):
    path = shutil.copy(honest, tmp_path / "sub.json.gz")
    options = ("--trust", "--cells", "2", "--seed", "5", "--workers", "1", "--record")
    done = immunebench("verify", path, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run again: 2 of 30 cells, drawn by --seed 5" in done.stdout
    assert "verdict: spot-checked, 2 of 30 cells rerun on" in done.stdout
    assert tiers.tier(path).startswith("spot-checked, 2 of 30 cells rerun on ")
    recorded = json.loads(tiers.verification_file(path).read_text())
    assert (recorded["seed"], recorded["rerun"]) == (5, 2)


@pytest.mark.slow
def test_verify_fails_with_exit_code_1_and_records_nothing(content, tmp_path):
    content["cells"].remove(find(content, **BAD))
    path = write_content(content, tmp_path / "forged.json.gz")
    done = immunebench("verify", path, "--trust", "--cells", "0", "--record", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "cells of the plan are missing: 1" in done.stdout
    assert done.stdout.splitlines()[-1] == "verdict: not verified"
    assert not tiers.verification_file(path).exists()


def test_a_newer_format_is_one_line_and_exit_code_2(content, tmp_path):
    content["format"] = FORMAT + 1
    path = write_content(content, tmp_path / "new.json")
    done = immunebench("verify", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "has format 3; this harness reads up to 2: upgrade immunebench" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_submit_and_its_schema(honest, tmp_path):
    done = immunebench("submit", "--schema", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    schema = json.loads(done.stdout)
    assert {*content_of(honest), "method"} == set(schema["properties"])
    assert not {"module", "file"} & set(schema["$defs"]["PluginSpec"]["properties"])
    done = immunebench("submit", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "has no run.json.gz" in done.stderr
    shutil.copy(honest, tmp_path / pack.RUN)
    done = immunebench("submit", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "small version 3: 30 cells, 0 failed" in done.stdout
    submitted = tmp_path / "results" / "submissions" / "small" / f"{tmp_path.name}.json.gz"
    assert read_write.read(submitted).method is None
    about = ["--title", "Scaling", "--authors", "A. One, B. Two", "--paper", "https://example.org/a?b=1"]
    done = immunebench("submit", tmp_path, *about, cwd=tmp_path)
    assert done.returncode == 2
    assert "has other content: --force replaces it" in done.stderr
    done = immunebench("submit", tmp_path, *about, "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Anonymised but for title and authors" in done.stdout
    assert (
        merge.load([submitted])
        .provenance[submitted.name]
        .startswith("Scaling; A. One, B. Two; https://example.org/a?b=1; 20")
    )
    for wrong, message in (
        (
            ["--title", "x", "--code", "javascript:alert(1)"],
            "code: must be an address in ASCII characters",
        ),
        (["--paper", "https://example.org"], "title: "),
    ):
        done = immunebench("submit", tmp_path, *wrong, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
