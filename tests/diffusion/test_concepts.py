"""Concept files."""

import shutil
from pathlib import Path

import pytest

from harness.diffusion import concepts
from harness.diffusion.concepts import GroupBlock
from harness.diffusion.image_folder import folder_digest, picture_files
from harness.diffusion.protocol import DiffusionProtocol
from harness.errors import RunError, UsageError
from tests.diffusion.helpers import write_pictures

LISTS = Path(__file__).parents[2] / "suites" / "concepts"
FILE = """
format: 2
kind: style
prompt: an artwork by {}
class_prompt: an artwork
class_word: artwork
concepts:
  marvo:
  van_gogh: {words: Van Gogh}
  telune: {prompt: "a painting by {}"}
groups: {two: [[marvo, van_gogh]]}
"""


def _block(**given) -> GroupBlock:
    return GroupBlock.model_validate({"concepts": "c.yaml", **given})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(FILE)
    return tmp_path / "c.yaml"


def test_concepts_inherit_the_files_fields(file: Path) -> None:
    found = concepts.read(file).concepts
    assert [concept.prompted() for concept in found.values()] == [
        "an artwork by marvo", "an artwork by Van Gogh", "a painting by telune",
    ]  # fmt: skip
    assert found["marvo"].prompted("<v>") == "an artwork by <v>"


def test_groups_and_their_benign_concepts(file: Path) -> None:
    (group,) = _block(groups="two").expand()
    assert group.label == "marvo+van_gogh"
    assert [concept.name for concept in group.others] == ["telune"]
    (written,) = _block(groups=[["telune"]], others=2).expand()
    assert [concept.name for concept in written.others] == ["marvo", "van_gogh"]  # the file goes round


def test_a_concept_file_of_an_installed_suite_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name, by_path = (
        _block(concepts=str(where), groups="one") for where in ("small_styles", LISTS / "small_styles.yaml")
    )
    assert by_name.expand() == by_path.expand()
    with pytest.raises(
        ValueError, match="no installed suite has concepts called 'small_style'; did you mean small_sty"
    ):
        _block(concepts="small_style", groups="one")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.replace("[[marvo,", "[[marvu,"), "unknown concept 'marvu'; did you mean marvo"),
        (FILE.replace("by {}\nclass_p", "by\nclass_p"), "prompt"),
        (FILE.replace("format: 2", "format: 9"), "concept format 9; this harness reads 2: upgrade immunebench"),
        (
            FILE.replace("format: 2", "format: 1"),
            "concept format 1; this harness reads 2: write `format: 2`, `words` for",
        ),
        (FILE.replace("kind: style", "kind: subject"), "a subject needs a class_word and a folder of images"),
        (FILE.replace("class_word", "klass_word"), "klass_word"),
        (FILE.replace("  marvo:\n", "  marvo: false\n"), r"concepts.marvo: must be a mapping or empty \(got False"),
        (FILE.replace("  marvo:\n", "  marvo: Marvo\n"), "concepts.marvo: must be a mapping or empty"),
        (FILE.replace("  marvo:\n", "  marvo:\n  marvo:\n"), "line 9: the key 'marvo' is given twice, first in line 8"),
        (FILE.replace("by {}\n", "by {name}\n"), "concepts.marvo.prompt: must hold {} once"),
        (FILE + "images: photos/{name}", "marvo: images may hold {}, .* but no other brace"),
        (FILE + "images: photos/{1}", "marvo: images may hold {}"),
        (FILE + "erase: {a bag: a bag}", "erase.*: must hold {} once"),
        (FILE + "images: yes\ntitle: 3", r"title: must be text \(got 3, line 1\d\)"),
        (FILE.replace("format: 2", "format: '2'"), "format: must be an integer"),
        (FILE.replace("format: 2", "format: 2.0"), "format: must be an integer"),
        (FILE.replace("format: 2", "format: 0"), "format: must be greater than or equal to 2"),
        (FILE.replace("[[marvo, van_gogh]]", "[[marvo, marvo]]"), "group 'two' has the concept 'marvo' twice"),
        (FILE.replace("[[marvo, van_gogh]]", "[[]]"), "group 'two' has no concepts"),
        (
            FILE.replace("  marvo:\n", "  marvo:\n  Marvos:\n").replace("marvo, van_gogh", "marvo, Marvos"),
            "group 'two' has one concept twice, as 'marvo' and as 'Marvos'",
        ),
        ("[1, 2", "line 1: no YAML"),
        (
            FILE.replace("by {}\nclass_p", "by {}s\nclass_p"),
            "marvo: the prompt 'an artwork by {}s' must have {} as a word",
        ),
        (FILE.replace("Van Gogh", "'?!'"), "van_gogh: the words '.!' have no letter or digit"),
        (FILE + "classifier: styles", "the concept classifier has no head 'styles'; did you mean style"),
        (FILE + "classifier: style", r"head 'style' does not know 'van_gogh'; .* \(leave `classifier` out"),
        (
            FILE.replace("  marvo:\n", "  marvo: {words: telune, classifier: style}\n"),
            "marvo: the words 'telune' are of 'telune', another class of the concept classifier",
        ),
        (
            FILE + "images: photos/one",
            "marvo and van_gogh have one folder of pictures, .*photos/one: give each its own",
        ),
        ("- 1", "a concept file is a mapping"),
    ],
)
def test_a_wrong_file_is_one_clear_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        concepts.read(file)
    assert "\n" not in str(error.value)


def test_braces_of_folders_above_and_of_words_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "{0}{x}"
    folder.mkdir()
    path = folder / "c.yaml"
    path.write_text(FILE.replace("Van Gogh", '"{x} {}"') + "images: photos/{}\n")
    read = concepts.read(path).concepts
    assert read["marvo"].images == str(folder / "photos" / "marvo")
    assert read["van_gogh"].prompted() == "an artwork by {x} {}"
    for name in ("marvo", "van_gogh", "telune"):
        write_pictures(folder / "photos" / name, 1, seed=len(name))
    (group, *_) = _block(concepts=str(path), groups="two").expand()
    assert concepts.Group.model_validate(group.model_dump(mode="json")) == group


def test_a_wrong_group_is_refused_when_the_suite_loads(file: Path) -> None:
    for given, message in (
        ({"groups": "three"}, "has no groups 'three'; "),
        ({"groups": [["marvo", "nobody"]]}, "unknown concept 'nobody'"),
        ({"groups": "two", "others": 2}, "leaves 1 benign concepts of 2"),
        ({"groups": "two", "concepts": "d.yaml"}, "d.yaml does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            _block(**given)


def test_a_tilde_in_a_path_is_the_home_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = file.parent / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "words.txt").write_text("a photo\n")
    (home / "more.yaml").write_text(f"{FILE}\ncaptions: ~/words.txt\nimages: ~/{{}}\nkeep: [~/c.yaml]\n")
    (home / "c.yaml").write_text(FILE)
    read = concepts.read(home / "more.yaml")
    assert read.concepts["marvo"].images == str(home / "marvo")
    for name in ("marvo", "van_gogh", "telune"):
        write_pictures(home / name, 1, seed=len(name))
    block = concepts.GroupBlock.model_validate({"concepts": "~/more.yaml", "groups": "two", "base": "~/base"})
    assert (block.concepts, block.base) == (str(home / "more.yaml"), str(home / "base"))
    encoders = DiffusionProtocol(steps=1, encoders={"lpips": "~/alex.pth", "dino": None}).encoders
    assert encoders == {"lpips": str(home / "alex.pth"), "dino": None}


def test_a_style_without_a_class_prompt_is_no_target(file: Path) -> None:
    """The erasure replaces its meaning by that of the class prompt; a kept one needs none."""
    file.write_text(FILE.replace("marvo:", "marvo: {class_prompt: ''}"))
    with pytest.raises(ValueError, match="marvo: a target needs a class_prompt"):
        _block(groups="two")
    assert [concept.name for concept in _block(groups=[["telune"]]).expand()[0].kept] == ["marvo", "van_gogh"]


def test_a_target_is_not_among_what_is_kept(file: Path) -> None:
    """Nor is a concept twice: concepts with the same words are one, in whatever file and by whatever name."""
    file.write_text(FILE + "keep: [d.yaml, e.yaml]")
    (file.parent / "d.yaml").write_text(FILE)
    text = "format: 2\nkind: style\nprompt: art of {}\nconcepts: {vincent: {words: van gogh}, obrick: , obrickson: }"
    (file.parent / "e.yaml").write_text(text)
    (group,) = _block(groups="two").expand()
    assert [concept.name for concept in group.kept] == ["telune", "obrick", "obrickson"]
    (file.parent / "e.yaml").write_text(text.replace("obrick:", "telune: {words: another}"))
    with pytest.raises(ValueError, match="two concepts of its files are called 'telune': rename one"):
        _block(groups="two")


def test_captions_that_name_a_concept_by_a_whole_word_are_hidden(file: Path) -> None:
    """And prompts to keep that name a target are left out; a carpet and a scarf are no car."""
    file.write_text(
        "format: 2\nkind: object\nprompt: a photo of a {}\nclass_prompt: a photo\ncaptions: c.txt\n"
        "concepts: {car: , bag: , carpet: , scarf: , boot: }"
    )
    seen = ["a photo of a carpet", "a cart in a yard", "a wooden table"]
    hidden = ["two Cars", "a handbag, a bag", "Scarves, a scarf"]
    (file.parent / "c.txt").write_text("\n".join(seen + hidden))
    (group,) = _block(groups=[["car"]]).expand()
    assert [concept.name for concept in group.bystanders["heldout"]] == ["scarf"]
    assert [group.captions[i] for i in group.known_captions] == seen
    assert [concept.name for concept in group.kept if not group.targets[0].named_in(concept.prompted())] == [
        "bag", "carpet", "scarf", "boot",
    ]  # fmt: skip


def test_compositions_are_new_to_a_defense_and_name_no_target(file: Path) -> None:
    """marvo is the target, telune benign; pirou has no further prompts, and boots by marvo are no concept to keep."""
    file.write_text(
        "format: 2\nkind: style\nprompt: an artwork by {}\nclass_prompt: an artwork\ncaptions: c.txt\nkeep: [o.yaml]\n"
        "erase: {'a bag by {}': an artwork of a bag, 'a car by {}': an artwork of a car}\n"
        "concepts: {marvo: , telune: , obrick: , sevra: , kalindo: , pirou: {erase: {}}}"
    )
    (file.parent / "o.yaml").write_text(
        "format: 2\nkind: object\nprompt: a photo of a {}\nerase: {'a {} by marvo': an artwork}\nconcepts: {boot: }"
    )
    (file.parent / "c.txt").write_text("a car\nA bag by Obrick, on wood")
    (group,) = _block(groups=[["marvo"]]).expand()
    assert [(concept.name, concept.prompted()) for concept in group.compositions] == [
        ("obrick", "a car by obrick"), ("sevra", "a car by sevra"), ("kalindo", "a bag by kalindo"),
    ]  # fmt: skip


def test_no_more_than_some_compositions(file: Path) -> None:
    (group,) = GroupBlock(concepts=str(LISTS / "small_styles.yaml"), groups=[["marvo"]]).expand()
    assert len(group.compositions) == concepts.COMPOSITIONS
    assert len({concept.prompt for concept in group.compositions}) > 1
    assert all(concept.classifier for concept in group.compositions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("empty", "my_dog: no pictures in .*/my_dog; put some there"),
        ("phone", r"my_dog: no pictures in .*/my_dog, only 2 \.heic, 1 folder, 1 hidden; put some there"),
        ("same", "the folders of my_dog and my_cat have the same pictures"),
    ],
)
def test_folders_are_checked_when_the_suite_loads(file: Path, change: str, message: str) -> None:
    photos = file.parent / "photos"
    write_pictures(photos / "my_cat", 1)
    (photos / "my_dog").mkdir()
    if change == "phone":
        for name in ("a.HEIC", "b.heic", "._c.png"):
            (photos / "my_dog" / name).write_bytes(b"picture")
        write_pictures(photos / "my_dog" / "best.png", 1)
    elif change == "same":
        shutil.copy(photos / "my_cat" / "0.png", photos / "my_dog" / "other.png")
    file.write_text(
        "format: 2\nkind: subject\nprompt: a photo of a {}\nimages: photos/{}\nclass_word: pet\n"
        "concepts: {my_dog: , my_cat: , lost: }"
    )
    with pytest.raises(ValueError, match=message):
        _block(groups=[["my_dog"]])


def test_a_folder_of_own_photos(file: Path) -> None:
    """A subject is a few lines and a folder; its digest changes with its pictures, not with its place."""
    write_pictures(file.parent / "photos" / "my_dog", 2)
    text = "format: 2\nkind: subject\nprompt: a photo of a {}\nimages: photos/{}\nconcepts: {my_dog: {class_word: dog}}"
    file.write_text(text)
    concept = concepts.read(file).concepts["my_dog"]
    before = folder_digest(str(concept.images))
    assert len(picture_files(str(concept.images))) == 2
    (file.parent / "photos").rename(file.parent / "other")
    file.write_text(text.replace("photos/", "other/"))
    moved = concepts.read(file).concepts["my_dog"]
    assert folder_digest(str(moved.images)) == before
    write_pictures(file.parent / "other" / "my_dog", 3)
    assert folder_digest(str(moved.images)) != before
    with pytest.raises(RunError, match="no base model knows by name"):
        concept.prompted()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("small_styles", 8),
        ("small_objects", 10),
        ("small_subjects", 13),
        ("stable_diffusion_styles", 8),
        ("stable_diffusion_objects", 10),
    ],
)
def test_shipped_concept_files_load(name: str, count: int) -> None:
    """Eight styles, ten objects, thirteen subjects; five groups of two and five of three, all different."""
    file = concepts.read(LISTS / f"{name}.yaml")
    assert len(file.concepts) == count
    for size, kind in ((2, "two"), (3, "three")):
        groups = file.groups[kind]
        assert len({frozenset(group) for group in groups}) == 5
        assert all(len(set(group)) == size for group in groups)
        assert len(_block(concepts=str(LISTS / f"{name}.yaml"), groups=kind).expand()) == 5


def test_mixed_groups_have_five_and_ten_concepts() -> None:
    """Objects and styles of the small base in one file; groups apart and alike have the same size."""
    file = concepts.read(LISTS / "small_mixed.yaml")
    assert set(file.concepts) == {
        name for other in ("objects", "styles") for name in concepts.read(LISTS / f"small_{other}.yaml").concepts
    }
    assert {name: len(set(group)) for name, (group,) in file.groups.items()} == {
        "five_apart": 5, "five_alike": 5, "ten_apart": 10, "ten_alike": 10
    }  # fmt: skip


def test_subjects_follow_the_styles_that_are_erased() -> None:
    (group,) = _block(concepts=str(LISTS / "small_styles_and_subjects.yaml"), groups="two", others=3).expand()
    assert [concept.kind for concept in group.targets] == ["style"] * 2
    assert [concept.kind for concept in group.others] == ["subject"] * 3
    assert {concept.kind for concept in group.kept} == {"style", "object", "subject"}


def test_subjects_ship_with_their_pictures() -> None:
    for concept in concepts.read(LISTS / "small_subjects.yaml").concepts.values():
        assert 4 <= len(picture_files(str(concept.images))) <= 6, concept.name
