"""What a hostile submission may not do: fill the memory, crash a board, or look like something else."""

import gzip
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.leaderboard import boards
from harness.submission import read_write, schema
from harness.submission.schema import InvalidSubmission
from tests.submission.forge import reseal

RANKING = {"value": {"metric": "error", "role": "harmful"}, "better": "higher"}


@pytest.mark.parametrize("size", [1e308, -1e308, 1e200, 5e-324])
def test_values_of_any_size_make_a_board(content, tmp_path, size):
    content["suite"]["grids"][0]["ranking"] = RANKING
    for number, cell in enumerate(content["cells"]):
        if cell.get("kind") is not None and cell["coordinates"]["measured_by"] != "cost":  # whose values are bounded
            cell["values"] = [size if number % 3 else 1.0 for _ in cell["values"]]
            reseal(content, cell)
    for cell in content["cells"]:  # one job has one artifact
        same = next(other for other in content["cells"] if other["key"] == cell["key"])
        cell.update({name: same[name] for name in ("values", "files") if name in same})
    board = boards.make(read_write.parse(content, "here").records())
    boards.write(board, tmp_path)
    assert board.grids[0].cells is not None
    assert "shrinking" in (tmp_path / "leaderboard.md").read_text()


@pytest.mark.parametrize("field", ["resolution", "broken", "start"])
def test_numbers_of_a_ranking_are_bounded(content, field):
    content["suite"]["grids"][0]["ranking"] = {**RANKING, field: 1e308}
    with pytest.raises(InvalidSubmission, match=rf"ranking\.{field}: must be less than or equal to 1e\+100"):
        read_write.parse(content, "here")


def test_a_row_that_looks_like_another_is_refused(content):
    grid = content["suite"]["grids"][0]
    grid["defenses"]["\u0441\u043e\u0440"] = grid["defenses"]["cop"] = grid["defenses"]["none"]
    with pytest.raises(InvalidSubmission, match="two defenses have labels that look alike"):
        read_write.parse(content, "here")


def test_few_values_that_stand_for_many_are_refused(content, monkeypatch):
    """Each value without a seed counts once for every seed of the grid."""
    content["suite"]["grids"][0]["seeds"] = list(range(1, 1001))
    monkeypatch.setattr(schema, "MOST_VALUES", 10**4)
    with pytest.raises(InvalidSubmission, match="its values without a seed stand for"):
        read_write.parse(content, "here")


@given(
    st.text(st.sampled_from("https://a.?&=#%_~<>\"'`\\ \n\r\t()[]{}|;,") | st.characters(codec="utf-8"), max_size=30)
)
def test_an_address_is_a_plain_one(text):
    """None ends an attribute, a link or a line, and none has another scheme."""
    for address in (text, f"https://{text}"):
        try:
            schema.Method(title="A method", paper=address)
        except ValidationError:
            continue
        assert address.startswith(("https://", "http://"))
        assert not set("<>\"'`\\()[]{}|;,") & set(address)
        assert address.isascii()
        assert address.isprintable()
        assert not re.search(r"\s", address)


def test_the_seconds_of_a_stage_are_bounded(content):
    content["costs"][0]["seconds"] = 1e9
    with pytest.raises(InvalidSubmission, match=r"costs\.0\.seconds: must be less than or equal to"):
        read_write.parse(content, "here")


@pytest.mark.parametrize("item", [b"[],", b"[[[]]],", b'{"":0},', b"1,"])
def test_many_parts_in_a_small_file_are_refused(tmp_path, monkeypatch, item):
    monkeypatch.setattr(read_write, "VALUES", 10**4)
    path = tmp_path / "sub.json.gz"
    path.write_bytes(gzip.compress(b"[" + item * 10**5 + b"0]"))
    with pytest.raises(InvalidSubmission, match="more than 10000 values"):
        read_write.read(path)
