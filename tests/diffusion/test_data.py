"""Pictures from folders, and batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.diffusion import Concept, Targets, TextToImage, undefended
from harness.diffusion.image_folder import folder_digest, left_out, picture_files, read_images
from harness.diffusion.located import Files
from harness.diffusion.protocol import Erasure, Sampling
from harness.diffusion.undefended import DrawPictures, ReadPictures
from harness.errors import PluginError, RunError
from harness.stage import Folders, Stage, seed_of
from harness.store.tensors import load_tensors
from tests.diffusion.helpers import SIDE, noise, subject, write_pictures


def test_pictures_are_cropped_to_the_middle_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    Image.fromarray(wide).save(tmp_path / "a.png")
    images = read_images(str(tmp_path), SIDE)
    assert images.shape == (1, SIDE, SIDE, 3)
    assert (images == (10, 200, 30)).all()


def test_grey_and_transparent_pictures_are_read(tmp_path: Path) -> None:
    Image.new("L", (SIDE, SIDE), 77).save(tmp_path / "a.png")
    Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)).save(tmp_path / "b.png")
    images = read_images(str(tmp_path), SIDE)
    assert (images[0] == 77).all()
    assert (images[1] == 255).all()  # transparent is white


def test_a_folder_gives_its_pictures_and_names_the_rest(tmp_path: Path) -> None:
    """Regular files with the suffix of a picture; what a file manager hides, subfolders and other files are none."""
    for place, suffix in enumerate(("png", "JPG", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "tiff")):
        kind = {"JPG": "JPEG", "jfif": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
        Image.new("RGB", (SIDE, SIDE), (20 * place,) * 3).save(tmp_path / f"{place}.{suffix}", kind)
    before = folder_digest(str(tmp_path))
    for name in ("a.HEIC", "b.heic", "c.avif", "notes.txt", "._0.png", ".b.png", "README", "d.p\ng", "Thumbs.db",
                 "desktop.ini", ".DS_Store"):  # fmt: skip
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "edits.png").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert [path.name[0] for path in picture_files(str(tmp_path))] == list("012345678")
    assert left_out(str(tmp_path)) == {
        ".avif": 1, ".db": 1, ".heic": 2, ".ini": 1, ".txt": 1, "folder": 2, "hidden": 3, "other": 4,
    }  # fmt: skip
    assert read_images(str(tmp_path), SIDE)[:, 0, 0, 0].tolist() == pytest.approx(range(0, 180, 20), abs=2)
    assert folder_digest(str(tmp_path)) == before
    elsewhere = tmp_path / "edits.png" / "9.png"
    Image.new("RGB", (SIDE, SIDE), "white").save(elsewhere)
    (tmp_path / "9.png").symlink_to(elsewhere)
    assert (read_images(str(tmp_path), SIDE)[-1] == 255).all()  # a link is the picture that it leads to


def _empty(folder: Path) -> None:
    (folder / "notes.txt").write_text("no picture")


def _unreadable(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"this is no picture")


def _cut_off(folder: Path) -> None:
    write_pictures(folder, 1, 64)
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[: len(whole) // 2])


def _huge(folder: Path) -> None:
    Image.new("1", (20_000, 10)).save(folder / "a.png")


def _cmyk(folder: Path) -> None:
    Image.new("CMYK", (SIDE, SIDE)).save(folder / "a.jpg")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_empty, "no pictures in .*, only 1 .txt; put some there"),
        (_unreadable, r"cannot read the picture .*a\.png"),
        (_cut_off, r"cannot read the picture .*0\.png"),
        (_huge, r"a\.png has 20000×10 pixels; at most 8192 a side: shrink it"),
        (_cmyk, r"a\.jpg has colours in CMYK; save it as RGB"),
    ],
)
def test_bad_pictures_are_one_clear_line(tmp_path: Path, spoil, message: str) -> None:
    spoil(tmp_path)
    with pytest.raises(RunError, match=message) as error:
        read_images(str(tmp_path), SIDE)
    assert "\n" not in str(error.value)


def _first(model: TextToImage, concept: Concept, seed: int, **settings) -> list:
    batches = subject(model, concept, seed).batches("an artwork by marvo", 3, **settings)
    return [next(batches) for _ in range(3)]


def test_batches_depend_on_the_seed_alone(model: TextToImage, style: Concept) -> None:
    """Two models, one defended, meet the same attack; the global generator plays no part."""
    first = _first(model, style, 7)
    torch.manual_seed(99)
    with torch.no_grad():
        for weight in model.unet.parameters():
            weight.add_(0.1)
    for a, b in zip(first, _first(model, style, 7), strict=True):
        assert torch.equal(a.latents, b.latents)
        assert torch.equal(a.noise, b.noise)
        assert torch.equal(a.times, b.times)
    other = _first(model, style, 8)
    assert not torch.equal(first[0].noise, other[0].noise)


def test_batches_hold_the_pictures_latents(model: TextToImage, style: Concept) -> None:
    latents = model.encode(noise(5))
    for batch in _first(model, style, 7):
        assert batch.latents.shape == (3, 4, 8, 8)
        assert all(any(torch.equal(row, known) for known in latents) for row in batch.latents)
    mirrored = model.encode(noise(5)[:, :, ::-1])
    flipped = torch.cat([batch.latents for batch in _first(model, style, 7, flip=True)])
    sides = {any(torch.equal(row, known) for known in mirrored) for row in flipped}
    assert sides == {True, False}


def test_prior_preservation_adds_the_classes_pictures(model: TextToImage, style: Concept) -> None:
    """The loss is the concept's mean plus the weight times the class's mean (DreamBooth, Eq. 2)."""
    batch = _first(model, style, 7, prior=4, prior_weight=0.5)[0]
    assert list(batch.prompts) == ["an artwork by marvo"] * 3 + ["an artwork"] * 3
    halves = [
        replace(batch, latents=batch.latents[of], prompts=batch.prompts[of], noise=batch.noise[of],
                times=batch.times[of], weights=None)
        for of in (slice(0, 3), slice(3, 6))
    ]  # fmt: skip
    with torch.no_grad():
        own, prior = (float(model.denoising_loss(half)) for half in halves)
        assert float(model.denoising_loss(batch)) == pytest.approx(own + 0.5 * prior, rel=1e-5)


def test_a_plugin_gets_no_more_class_pictures_than_it_asked_for(model: TextToImage, style: Concept) -> None:
    data = subject(model, style)
    assert len(data.first_class_pictures(3)) == 3
    assert len(data.first_class_pictures(99)) == len(data.class_pictures) == 4
    without = replace(data, class_pictures=data.class_pictures[:0])
    with pytest.raises(PluginError, match="asked for none: return their number from its method class_images"):
        next(without.batches("an artwork by marvo", 2, prior=1))


def _run(job: Stage, out: Path) -> dict[str, np.ndarray]:
    out.mkdir()
    job.run(Folders({}), out)
    return {name: value.numpy() for name, value in load_tensors(out / "images.safetensors").items()}


def test_a_folder_is_divided_between_attackers_and_defenses(thing: Concept, base: Path, tmp_path: Path) -> None:
    """Alternately by name; the attackers' pictures are also the reference pictures."""
    files, folder = Files(), str(thing.images)
    write_pictures(Path(folder), 5)
    fields = {"base": files.base(str(base)), "precision": "fp32", "concept": thing, "folder": files.pictures(folder)}
    whole = read_images(folder, SIDE)
    apart, same = (_run(ReadPictures(**fields, shared=on), tmp_path / str(on)) for on in (False, True))
    for name in ("images", "training"):
        assert np.array_equal(apart[name], whole[[0, 2, 4]])
        assert np.array_equal(same[name], whole)
    assert np.array_equal(apart["defender"], whole[[1, 3]])
    assert "defender" not in same


def test_one_picture_cannot_be_divided(thing: Concept, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "single"
    write_pictures(folder, 1)
    files = Files()
    fields = {"base": files.base(str(base)), "precision": "fp32", "concept": thing}
    fields["folder"] = files.pictures(str(folder))
    with pytest.raises(RunError, match=r"single holds one picture.*`protocol: \{shared: true\}`"):
        _run(ReadPictures(**fields, shared=False), tmp_path / "out")
    assert len(_run(ReadPictures(**fields, shared=True), tmp_path / "other")["training"]) == 1


def test_drawn_pictures_are_disjoint(base: Path, style: Concept, model: TextToImage, tmp_path: Path) -> None:
    """By index: the attackers', the reference, the defenses'; the first two do not depend on `shared`."""
    fields = {"base": Files().base(str(base)), "precision": "fp32", "concept": style, "sampling": Sampling(steps=2)}
    apart, same = (
        _run(DrawPictures(**fields, training=2, images=1, shared=on), tmp_path / str(on)) for on in (False, True)
    )
    seeds = [seed_of("pictures", "marvo", i) for i in range(5)]
    drawn = model.sample([style.prompted()] * 5, seeds, sampler="ddim", steps=2, guidance=3.0)[0]
    parts = {"training": drawn[:2], "images": drawn[2:3], "defender": drawn[3:]}
    assert all(np.array_equal(apart[name], images) for name, images in parts.items())
    assert len(np.unique(drawn.reshape(5, -1), axis=0)) == 5
    assert np.abs(same["training"].astype(int) - drawn[:2]).max() <= 1
    assert "defender" not in same


def test_prior_preservation_needs_a_class_prompt(model: TextToImage, style: Concept) -> None:
    """Else the model would draw the empty prompt."""
    bare = style.model_copy(update={"class_prompt": ""})
    with pytest.raises(RunError, match="prior preservation needs the class_prompt of marvo"):
        next(subject(model, bare).batches("an artwork by marvo", 3, prior=2))
    targets = Targets(model, (subject(model, style), subject(model, bare)), ("marvo",), (), noise(1), 1)
    with pytest.raises(RunError, match="prior preservation needs the class_prompt of marvo"):
        targets.classes(2, 1)


def test_an_erasure_keeps_prompts_that_name_no_target(base: Path, tmp_path: Path, monkeypatch) -> None:
    """By whole words, and of the prompt without the kept concept's own words: a sports car is kept beside a car."""
    fields = {"kind": "object", "prompt": "a photo of a {}", "class_prompt": "a photo"}
    car, *kept = (
        Concept(name=name, erase=erase, **fields)
        for name, erase in (("car", {}), ("carpet", {"a {} in a car": "a car"}), ("sports car", {}))
    )
    given = []
    monkeypatch.setattr(undefended, "erase", lambda model, edits, prompts, settings: given.extend(prompts))
    on_base = {"base": Files().base(str(base)), "precision": "fp32", "sampling": Sampling(steps=1)}
    undefended.Erase(**on_base, targets=(car,), kept=tuple(kept), erasure=Erasure()).run(Folders({}), tmp_path)
    assert given == [("a photo of a carpet", "carpet"), ("a photo of a sports car", "sports car")]


def test_pictures_that_changed_during_a_run_fail_their_job(thing: Concept, base: Path, tmp_path: Path) -> None:
    """Else they would be kept under the key of the former ones."""
    files, pictures = Files(), str(thing.images)
    (tmp_path / "out").mkdir()
    fields = {"base": files.base(str(base)), "precision": "fp32", "concept": thing, "shared": False}
    job = ReadPictures(**fields, folder=files.pictures(pictures))
    job.run(Folders({}), tmp_path / "out")
    write_pictures(Path(pictures), 4)
    with pytest.raises(RunError, match="have changed since the run began"):
        job.run(Folders({}), tmp_path / "out")
