"""What is read of foreign files is bounded before objects are built of it."""

import gzip
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bounded import DEPTH, open_file, parse_json, read_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.booleans())
def test_json_comes_back(content, ascii):
    assert parse_json(json.dumps(content, ensure_ascii=ascii).encode()) == content


@given(st.binary(max_size=40))
def test_other_bytes_are_a_value_error_or_json(data):
    try:
        content = parse_json(data)
    except ValueError:
        return
    assert content == json.loads(data.decode())


def test_depth_is_exact():
    assert parse_json(b"[" * (DEPTH - 1) + b"1" + b"]" * (DEPTH - 1))
    for depth in (DEPTH, 1000, 10**6):
        with pytest.raises(ValueError, match=f"nested deeper than {DEPTH}"):
            parse_json(b"[" * depth + b"1" + b"]" * depth, 10**7)


@pytest.mark.parametrize("item", [b"[],", b"{},", b"[[[[]]]],", b'{"":0},', b"1,"])
def test_many_values_are_refused_before_they_are_built(item):
    """The least of three peaks, because other threads allocate memory too."""
    data = b"[" + item * 10**6 + b"0]"
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="more than 100000 values"):
                parse_json(data)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(peaks) < 10**5


def test_files_are_regular_and_short(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(b"x" * 1000))
    assert read_bytes(path, 1000, packed=True) == b"x" * 1000
    with pytest.raises(ValueError, match="longer than 999 bytes"):
        read_bytes(path, 999, packed=True)
    (tmp_path / "link").symlink_to("/dev/zero")
    for other in (tmp_path / "link", tmp_path):
        with pytest.raises(OSError, match=r"no regular file|Is a directory"):
            open_file(other)
