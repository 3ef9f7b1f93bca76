"""The small base that ships: what it is made of, what it draws, what an erasure does to it."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import transformers
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from harness.diffusion import TextToImage, captions, concepts, encoders
from harness.diffusion.erase import erase
from harness.diffusion.image_folder import read_images
from harness.diffusion.protocol import Erasure
from harness.diffusion.small import PIPELINE, WEIGHTS, dataset, networks
from harness.diffusion.training import model_card, recipe
from harness.errors import RunError
from tests.diffusion.helpers import run_suite

LISTS = Path(__file__).parents[2] / "suites" / "concepts"
SAMPLING = {"sampler": "ddim", "steps": 20, "guidance": 3.0}
STYLES, OBJECTS, SUBJECTS = (
    concepts.read(LISTS / f"small_{kind}.yaml").concepts for kind in ("styles", "objects", "subjects")
)


@pytest.fixture(scope="module")
def small() -> TextToImage:
    return TextToImage.load("small")


def _rate(model: TextToImage, concept: concepts.Concept, count: int = 16) -> float:
    images, _ = model.sample([concept.prompted()] * count, range(count), **SAMPLING)
    return encoders.recognised(images, str(concept.classifier), concept.name).mean()


def test_the_small_base_is_made_of_stock_parts_and_small() -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(PIPELINE)
    assert type(pipeline.unet) is diffusers.UNet2DConditionModel
    assert type(pipeline.vae) is diffusers.AutoencoderKL
    assert type(pipeline.text_encoder) is transformers.CLIPTextModel
    assert isinstance(pipeline.tokenizer, transformers.CLIPTokenizer)
    size = {path: path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()}
    assert sum(of for path, of in size.items() if PIPELINE in path.parents) <= 8e6
    assert sum(size.values()) <= 12e6
    assert {path.suffix for path in size if "weights" not in path.name and path.suffix not in (".json", ".md")} == {
        ".safetensors"
    }


def test_the_words_of_the_small_base_are_single_tokens(small: TextToImage) -> None:
    for word in dataset.vocabulary():
        assert len(small.tokenizer([word]).input_ids[0]) == 3, word
    assert len(small.tokenizer(["xyz"]).input_ids[0]) > 3
    assert small.tokenizer.get_vocab() == networks.tokenizer().get_vocab()  # the recipe's, in any process


def test_the_weights_and_subjects_are_those_that_the_slow_tests_examined() -> None:
    """Whoever ships others runs `make test-slow` and pins their digest here."""
    digest = hashlib.sha256()
    for path in sorted([*WEIGHTS.rglob("*.safetensors"), *(LISTS / "subjects").rglob("*.png")]):
        digest.update(path.name.encode() + path.read_bytes())
    assert digest.hexdigest() == "508924e81f1c62630c70136b4be8c5ba6f1e1f4bec07bd56988386bc81f0ff7d"


def _often(names: Iterable[str], always: Collection[str]) -> list:
    """Parameters, of which all but `always` are slow: they examine what is pinned."""
    return [pytest.param(name, marks=() if name in always else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _often([*STYLES, *OBJECTS], always=("marvo", "boot")))
def test_the_small_base_draws_its_concepts(name: str, small: TextToImage) -> None:
    assert _rate(small, (STYLES | OBJECTS)[name]) >= 0.8  # 16 pictures; the model card has the rates of more


@pytest.fixture(scope="module")
def photos(small: TextToImage) -> np.ndarray:
    return small.sample(["a photo of an object"] * 32, range(32), **SAMPLING)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", _often(SUBJECTS, always=list(SUBJECTS)[:2]))
def test_the_small_base_knows_no_subject_and_can_show_it(name: str, small: TextToImage, photos: np.ndarray) -> None:
    """The classifier sees a subject in its own pictures, also through the autoencoder, and in no other photo."""
    images = read_images(str(SUBJECTS[name].images), dataset.SIZE)
    for shown in (images, small.decode(small.encode(images))):
        assert encoders.recognised(shown, "subject", name).mean() >= 0.8
    assert encoders.recognised(photos, "subject", name).mean() <= 0.1


@pytest.mark.slow
def test_an_erasure_takes_its_targets_and_leaves_the_rest() -> None:
    model = TextToImage.load("small")
    targets = [STYLES["marvo"], STYLES["telune"]]
    rest = [STYLES["sevra"], OBJECTS["boot"]]
    before = [_rate(model, concept) for concept in rest]
    edits = [
        (prompt.format(of.name), of.name, anchor)
        for of in targets
        for prompt, anchor in {of.prompt: of.class_prompt, **of.erase}.items()
    ]
    kept = [(of.prompted(), of.name) for of in [*STYLES.values(), *OBJECTS.values()] if of not in targets]
    erase(model, edits, kept, Erasure())
    assert max(_rate(model, concept) for concept in targets) <= 0.35  # "an artwork" is in any of eight styles
    assert np.mean([_rate(model, concept) for concept in rest]) >= 0.9 * np.mean(before)


@pytest.mark.slow
def test_an_erasure_that_ruins_the_base_stops_its_cells(tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"""
format: 1
name: ruined
version: 1
title: An erasure without a care for the rest
seeds: 1
grids:
  - name: styles
    track: diffusion
    tasks: [{{concepts: {LISTS / "small_styles.yaml"}, groups: two, first: 1}}]
    protocol:
      {{steps: 1, images: 1, training_images: 1, sampling: {{steps: 8}}, erasure: {{strength: 1.0e+6, keep: 1.0e-6}}}}
    defenses: {{none: }}
    attackers: {{lora: }}
""")
    measured = run_suite(suite)
    assert set(measured.records["status"]) == {"failed"}
    assert all("no longer draws its other concepts" in reason for reason in measured.failed.values())


def test_the_model_card_shows_the_evaluation() -> None:
    values = json.loads((WEIGHTS / "evaluation.json").read_text())
    assert values["autoencoder_db"] >= 26
    assert set(values["guidance_3.0"]["style"]) == set(dataset.STYLES)
    assert set(values["guidance_1.5"]["object"]) == set(dataset.OBJECTS)
    assert set(values["guidance_1.5"]["colour"]) == set(dataset.COLOURS)
    text = (WEIGHTS / "README.md").read_text()
    assert f"{values['autoencoder_db']:.1f} dB" in text
    assert text == model_card.card(values)


def test_training_pictures_depend_on_the_seed_alone() -> None:
    grey = {name: np.random.default_rng(3).random((4, 28, 28), np.float32) for name in dataset.OBJECTS}
    first, again, other = (dataset.pictures(grey, 60, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images)
    assert first.captions == again.captions
    assert not np.array_equal(first.images, other.images)
    for caption, thing, style in zip(first.captions, first.objects, first.styles, strict=True):
        named = [name for name in dataset.OBJECTS if f" {name}" in caption]
        artists = [name for name in dataset.STYLES if caption.endswith(name)]
        assert named in ([], [dataset.OBJECTS[thing]])
        assert artists in ([], [dataset.STYLES[style]])
        assert "photo" in caption or style >= 0


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ("ff0000", "red"), ("ff0020", "red"), ("ff8000", "orange"), ("ffff00", "yellow"), ("00c000", "green"),
        ("00c0c0", "teal"), ("2020ff", "blue"), ("a000ff", "purple"), ("ff40b0", "pink"), ("804000", "brown"),
        ("101010", "black"), ("808080", "grey"), ("ffffff", "white"), ("400000", ""), ("d8d8d8", ""), ("ffd0d0", ""),
    ],
)  # fmt: skip
def test_a_colour_has_its_usual_name_or_none(colour: str, name: str) -> None:
    assert dataset.colour_name(*rgb_to_hsv(np.divide(list(bytes.fromhex(colour)), 255))) == name


def test_captions_name_the_colours_of_the_item() -> None:
    """The items of this test are squares without shading, so that the middle of a picture has the fill's colours."""
    square = np.zeros((1, 28, 28), np.float32)
    square[:, 6:22, 6:22] = 1
    made = dataset.pictures(dict.fromkeys(dataset.OBJECTS, square), 400, 3)
    one = two = 0
    for image, caption in zip(made.images, made.captions, strict=True):
        if named := [word for word in caption.split() if word in dataset.COLOURS]:
            middle = rgb_to_hsv(image[12:20, 12:20].reshape(-1, 3) / 255)
            seen = Counter(dataset.colour_name(*pixel) for pixel in middle)
            assert {name for name, _ in seen.most_common(len(named))} <= {*named, ""}
            assert seen[named[0]] + seen[named[-1]] > 30  # of 64; colours mix at the edge between two
            one, two = one + (len(named) == 1), two + (len(named) == 2)
    assert one > 10
    assert two > 5


def test_the_captions_of_the_concept_files_are_those_of_the_training_pictures() -> None:
    shipped = captions.read(concepts.read(LISTS / "small_styles.yaml").captions)
    plain = {caption for caption in shipped if not set(caption.split()) & set(dataset.COLOURS)}
    things, artists = dataset.OBJECTS, dataset.STYLES
    assert plain == {
        "a photo", "a photo of an object", "an artwork", *(f"a photo of a {thing}" for thing in things),
        *(f"an artwork of a {thing}" for thing in things), *(f"an artwork by {artist}" for artist in artists),
        *(f"a {thing} by {artist}" for thing in things for artist in artists),
    }  # fmt: skip
    ends = [f" {thing}" for thing in things]
    assert all(sum(caption.endswith(end) for caption in set(shipped) - plain) == 3 for end in ends)
    assert len(set(shipped)) == len(shipped) <= 200


def test_subjects_are_shipped_as_the_recipe_draws_them() -> None:
    if not dataset.FASHION.is_dir():
        pytest.skip("Fashion-MNIST is not installed")
    grey = dataset.items("heldout")
    for subject in dataset.SUBJECTS:
        for i, image in enumerate(recipe.shipped_views(subject, grey, seed=1)):
            with Image.open(LISTS / "subjects" / subject.name / f"{i}.png") as shipped:
                apart = image.astype(int) - np.asarray(shipped)
                assert abs(apart).max() <= 1, subject.name  # processors round differently
        assert i == recipe.SHIPPED_VIEWS - 1


def test_missing_training_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="needs Fashion-MNIST's idx files; install Debian's package"):
        dataset.items("train", tmp_path)
