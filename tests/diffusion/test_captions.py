"""Captions: the forms of their files, and which concepts a caption names."""

from pathlib import Path

import pytest

from harness.diffusion import captions
from harness.errors import UsageError

TWO = ("a red car", "two dogs, running")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "a red car\ntwo dogs, running"),
        ("c.txt", "\ufeff# of a phone\n\n  # and a computer\r\n a red car \r\ntwo dogs, running\r\n"),
        ("c.csv", "\ufefffile_name,text\n1.png,a red car\n2.png,\n3.png,\"two dogs,\n running\"\n"),
        ("c.tsv", "caption\tfile\na red car\t1.png\ntwo dogs, running\t2.png\n"),
        ("c.jsonl", '{"file_name": "1.png", "text": "a red car"}\n\n{"text": "two dogs, running"}\n'),
        ("c.jsonl", '{"text": "a red\u2028car"}\r\n{"text": "two dogs,\x85running"}'),
        ("c.txt", "a red\u2028car\r\ntwo dogs,\x85running"),
    ],
)  # fmt: skip
def test_captions_are_read_from_text_and_tables(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert captions.read(str(tmp_path / name)) == TWO


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "", "has none"),
        ("c.txt", "# a comment", "has none"),
        ("c.txt", "image,caption\n1.jpg,a red car", "line 1 is no caption"),
        ("c.txt", "a red car\n1000_693b.jpg#0\ta red car", "line 2 is no caption"),
        ("c.txt", "photos/1.PNG a red car", "line 1 is no caption"),
        ("c.txt", '{"text": "a red car"}', "line 1 is no caption.*name the file .csv, .tsv or .jsonl"),
        ("c.csv", "file;text\n1.png;a red car", "row 1 must have one column of caption, text, prompt"),
        ("c.csv", "text\na red car, parked", "row 1 must have"),
        ("c.csv", "text,caption\na,b", "row 1 must have"),
        ("c.csv", "file\n1.png", "row 1 must have"),
        ("c.csv", "text", "has none"),
        ("c.jsonl", '{"text": "a red car"}\n{"text": null}', "row 2 must have"),
        ("c.jsonl", "a red car", "cannot read the captions"),
        ("c.jsonl", "[" * 100_000, "cannot read the captions"),
        ("c.csv", "caption,caption\na red car,two dogs\n", "it has two columns caption"),
        ("c.json", '["a red car"]', "line 1 is no caption"),
        ("c.txt", "ein K\xe4fer".encode("latin-1"), "cannot read the captions"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message) as error:
        captions.read(str(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("caption", ["a text, red", "image, caption and text", "caption", "3.5 red cars", "no.1 car"])
def test_a_caption_is_no_table(tmp_path: Path, caption: str) -> None:
    (tmp_path / "c.txt").write_text(caption)
    assert captions.read(str(tmp_path / "c.txt")) == (caption,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red car", "car"),
        ("Cars.", "car"),
        ("a boot", "boots"),
        ("the car's door, open", "car"),
        ("two fire-hydrants", "Fire Hydrant"),
        ("a bus; two buses", "bus"),
        ("churches by the sea", "church"),
        ("ponies", "pony"),
        ("an artwork by Van Gogh", "van gogh"),
        ("my dog", "my_dog"),
        ("un cafe\u0301", "caf\xe9"),
    ],
)
def test_a_caption_names_a_concept(text: str, words: str) -> None:
    assert captions.names(text, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a photo of a carpet", "car"),
        ("a scarf on a chair", "car"),
        ("a cart, a cares, a cary", "car"),
        ("an artwork", "art"),
        ("as an artwork", "a work"),
        ("a hydrant on fire", "fire hydrant"),
        ("a boy", "boies"),
        ("", "car"),
    ],
)
def test_a_word_within_another_word_names_nothing(text: str, words: str) -> None:
    assert not captions.names(text, words)
