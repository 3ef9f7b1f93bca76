"""YAML that people write: what is a number, what is text, and what is refused with its line."""

import math

import pytest

from harness import strict_yaml
from harness.errors import UsageError


@pytest.mark.parametrize("text", ["yes", "no", "on", "Off", "010", "007", "0x1F", "1_000", "1:30", "2026-01-01", "="])
def test_what_is_no_plain_number_is_text(text):
    assert strict_yaml.parse(f"a: {text}", "here").value == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-1.5", -1.5), (".5", 0.5), ("1.", 1.0), ("-7", -7), ("0", 0), ("+3", 3),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("'1'", "1"), ("!!str 1", "1"),
        (".inf", math.inf), ("[1, a]", [1, "a"]),
    ],
)  # fmt: skip
def test_plain_values(text, value):
    (read,) = strict_yaml.parse(f"a: {text}", "here").value.values()
    assert read == value
    assert type(read) is type(value)


def test_keys_are_text_and_merge_keys_are_merged():
    assert list(strict_yaml.parse("{no: , 1: , ~: , true: }", "here").value) == ["no", "1", "~", "true"]
    content = strict_yaml.parse("base: &b {lr: 1, steps: 2}\nrow:\n  <<: *b\n  lr: 3", "here")
    assert content.value["row"] == {"lr": 3, "steps": 2}
    assert content.line("row", "lr") == 4
    assert content.line("row", "lr", "deeper") == 4
    assert content.line("absent") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "here, line 3: the key 'a' is given twice, first in line 1"),
        ("x: {a: 1, a: 1}", "here, line 1: the key 'a' is given twice"),
        ("a: 1\n? [b]\n: 2", "line 2: a key must be text"),
        ("a: 1\nb: [2", "line 2: no YAML: while parsing a flow sequence"),
        ("a: 1\n\tb: 2", "line 2: no YAML: .* cannot start any token"),
        ("@sks", "line 1: no YAML"),
        ("a: *b", "line 1: no YAML: found undefined alias 'b'"),
        ("a: &a [*a]", "line 1: 'a' contains itself"),
        ("a: !!python/name:os.system", "line 1: the tag .*python/name:os.system is not read here"),
        ("a: !!int '010'", "the tag .*int is not read here"),
        ("--- 1\n--- 2", "line 2: no YAML: expected a single document"),
        ("a: \x00", "here: no YAML: unacceptable character"),
        (f"a: {'9' * 5000}", "here: no YAML: Exceeds the limit"),
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)),
            "line 1[67]: more than 100000 parts, with those of aliases",
        ),
        (f"a: {'[' * 3000}", "here: no YAML that is read here: its lists and mappings are nested too deeply"),
    ],
)
def test_refused_in_one_line(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        strict_yaml.parse(text, "here")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_bytes("title: é".encode("latin-1"))
    with pytest.raises(UsageError, match=r"cannot read .*s.yaml: .*utf-8"):
        strict_yaml.read(path)
