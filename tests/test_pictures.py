"""Pictures of anyone's are upright, on white and in RGB, or refused by their file's name."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from harness.errors import RunError
from harness.execution.failure import line
from harness.pictures import read_picture

CORNERS = np.zeros((2, 3, 3), np.uint8)
CORNERS[0, 0], CORNERS[0, 2] = (255, 0, 0), (0, 255, 0)
TURNS = {1: 0, 3: 2, 6: 3, 8: 1}
"""By the orientation in EXIF data, how many quarter turns to the left make a picture upright."""
MIRRORED = {2: 0, 4: 2, 5: 1, 7: 3}
"""Those of pictures that are mirrored first."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "日本 {x}.png"
    Image.fromarray(CORNERS).save(path, exif=exif)
    assert np.array_equal(np.asarray(read_picture(path)), np.rot90(CORNERS, TURNS[orientation]))


@pytest.mark.parametrize("orientation", MIRRORED)
def test_exif_mirrors(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(CORNERS).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(CORNERS[:, ::-1], MIRRORED[orientation])
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pictures_are_on_white(tmp_path, mode):
    path = tmp_path / "a.png"
    if mode == "P":
        Image.new("P", (2, 2), 0).save(path, transparency=0)
    else:
        Image.new(mode, (2, 2), 0).save(path)
    assert np.asarray(read_picture(path)).min() == 255


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert np.asarray(read_picture(tmp_path / "a.webp"))[0, 0].tolist() == [255, 0, 0]


def test_colours_of_a_palette(tmp_path):
    Image.fromarray(CORNERS).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.gif")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.gif")), CORNERS)


@pytest.mark.parametrize("name", ["日本.png", "صورة.png", "a\u0301 🐕.png", "\udcff.png", "a\x1b]0;b.png", "-x{y}.png"])
def test_a_picture_of_any_name_is_read_or_refused_by_its_name(tmp_path, name):
    """Names need not be UTF-8."""
    Image.fromarray(CORNERS).save(tmp_path / "a.png")
    path = (tmp_path / "a.png").rename(tmp_path / name)
    assert np.array_equal(np.asarray(read_picture(path)), CORNERS)
    path.write_bytes(b"no picture")
    with pytest.raises(RunError, match="cannot read the picture") as caught:
        read_picture(path)
    assert line(caught.value).isprintable()
    assert Path(os.fsdecode(os.fsencode(path))).exists()


@example("PNG", [(11, 5)], 0)  # a header that is too short
@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=4),
       st.integers(0, 999))  # fmt: skip
def test_a_damaged_picture_is_read_or_refused(tmp_path_factory, kind, changes, length):
    """Bytes are changed or cut off; no error but our own is raised."""
    buffer, path = io.BytesIO(), tmp_path_factory.getbasetemp() / "damaged"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(CORNERS).resize((8, 8)).save(buffer, kind, **({"exif": exif} if kind in FORMATS[:3] else {}))
    data = bytearray(buffer.getvalue())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data[: len(data) - length % 64])
    try:
        found = read_picture(path).mode
    except RunError as error:
        found = str(error)
    assert found == "RGB" or str(path) in found


@pytest.mark.parametrize("mode", ["I;16", "F", "CMYK"])
def test_other_colours_are_refused_by_the_files_name(tmp_path, mode):
    path = tmp_path / "a.tiff"
    Image.new(mode, (2, 2)).save(path)
    with pytest.raises(RunError, match=r"a.tiff has colours in .*; save it as RGB"):
        read_picture(path)
