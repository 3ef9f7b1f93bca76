"""Labels can be read, and no two look alike."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from harness.labels import LONGEST_STEM, Label, Name, check_distinct, file_stem, skeleton

LABEL, NAME = TypeAdapter(Label), TypeAdapter(Name)


@pytest.mark.parametrize("text", ["adam", "P3-H8", "whitening κ=0.1", "über", "猫と犬", "my dog", "собака", "कुत्ता"])
def test_labels_of_any_script(text):
    assert LABEL.validate_python(text) == text
    assert NAME.validate_python(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n\u043ene", "mixes letters of CYRILLIC and LATIN in a word"),
        ("κalman", "mixes letters of GREEK and LATIN"),
        ("a\u3164b", "unusual form"),
        ("a\u115fb", "the invisible character U\\+115F"),
        ("ad\u200dam", "the invisible character U\\+200D"),
        ("\uff41dam", "unusual form: write 'adam'"),
        ("e\u0301", "unusual form"),
        ("a\u00adb", "letters, digits, spaces"),
        ("\u034f", "the invisible character U\\+034F"),
        ("\u17b4", "the invisible character U\\+17B4"),
        ("adam\ufe0f", "the invisible character U\\+FE0F"),
        ("\u0301adam", "the mark U\\+0301 without a letter before it"),
        ("lr=\u0301", "the mark U\\+0301 without a letter before it"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_refused(text, message):
    with pytest.raises(ValidationError, match=message):
        LABEL.validate_python(text)


@pytest.mark.parametrize(("one", "other"), [("cop", "сор"), ("Adam", "adam"), ("νοτε", "vote"), ("x1", "х1")])
def test_labels_that_look_alike_are_refused(one, other):
    check_distinct([one, "none"], "defense")
    with pytest.raises(ValueError, match="two defenses have labels that look alike") as caught:
        check_distinct([one, "none", other], "defense")
    assert str(caught.value).isascii()


@given(st.text(st.sampled_from("abé日./\\:~$%' \0\n-_") | st.characters(), min_size=1, max_size=8))
def test_what_is_a_label_is_one_part_of_a_path_and_no_command_of_a_terminal(text):
    for adapter, name_of in ((NAME, str), (LABEL, file_stem)):
        try:
            label = adapter.validate_python(text)
        except ValidationError:
            continue
        path = Path("/folder", name_of(label))
        assert (path.parent, path.name) == (Path("/folder"), name_of(label))
        assert len(os.fsencode(path.name)) <= LONGEST_STEM
        assert label.isprintable()


@given(st.text(max_size=20))
def test_a_skeleton_does_not_depend_on_the_form(text):
    """Compatibility forms, invisible characters and marks do not change it."""
    assert skeleton(unicodedata.normalize("NFKC", text)) == skeleton(text)
    assert skeleton("\u200b".join(text)) == skeleton(text)
    assert all(unicodedata.category(letter)[0] != "C" for letter in skeleton(text))
