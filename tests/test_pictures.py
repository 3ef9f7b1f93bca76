"""Pictures of anyone's are upright, on white and in RGB, or refused by their file's name."""

import numpy as np
import pytest
from PIL import Image

from harness.errors import RunError
from harness.pictures import read_picture

CORNERS = np.zeros((2, 3, 3), np.uint8)
CORNERS[0, 0], CORNERS[0, 2] = (255, 0, 0), (0, 255, 0)
TURNS = {1: 0, 3: 2, 6: 3, 8: 1}
"""By the orientation in EXIF data, how many quarter turns to the left make a picture upright."""


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "日本 {x}.png"
    Image.fromarray(CORNERS).save(path, exif=exif)
    assert np.array_equal(np.asarray(read_picture(path)), np.rot90(CORNERS, TURNS[orientation]))


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


@pytest.mark.parametrize("mode", ["I;16", "F", "CMYK"])
def test_other_colours_are_refused_by_the_files_name(tmp_path, mode):
    path = tmp_path / "a.tiff"
    Image.new(mode, (2, 2)).save(path)
    with pytest.raises(RunError, match=r"a.tiff has colours in .*; save it as RGB"):
        read_picture(path)
