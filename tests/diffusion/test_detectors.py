"""Detectors by name and from a folder, their confusion on reference pictures, and that a failure is no answer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from harness.diffusion import AttackedPictures, Concept, ConceptAttack, View, encoders
from harness.diffusion.concepts import read
from harness.diffusion.detectors import Asked, Question
from harness.diffusion.measuring import Look
from harness.diffusion.metrics.detection import Detection
from harness.diffusion.model import TextToImage, as_pixels
from harness.diffusion.protocol import DiffusionProtocol
from harness.errors import RunError, UsageError
from harness.registry import installed
from tests.diffusion.helpers import load_suite, noise, run_suite
from tests.diffusion.test_track import CONCEPTS, SUITE

LISTS = Path(__file__).parents[2] / "suites" / "concepts"


@pytest.fixture
def concepts() -> list[Concept]:
    return list(read(LISTS / "small_styles.yaml").concepts.values())[:3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An untrained classifier of pictures as transformers saves it."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16, patch_size=8,
        id2label={0: "safe", 1: "Marvo", 2: "nsfw"}, label2id={"safe": 0, "Marvo": 1, "nsfw": 2},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "filter")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "filter")
    return tmp_path / "filter"


def ask(name: str, images: np.ndarray, concepts: list[Concept], path: Path | None = None, *labels: str) -> np.ndarray:
    from harness.diffusion.located import Files

    place = Files().detector(str(path)) if path else None
    return Asked(name, place, Question(tuple(concepts), tuple(concepts), labels)).seen(images)


def test_the_built_in_detectors_know_the_small_bases_styles(concepts: list[Concept]) -> None:
    """Of pictures by the base model they see the concept that was drawn, and no other."""
    model = TextToImage.load("small")
    prompts = [concept.prompted() for concept in concepts for _ in range(4)]
    images, _ = model.sample(prompts, range(12), sampler="ddim", steps=10, guidance=3.0)
    right = np.eye(3, dtype=bool).repeat(4, 1)
    for name in ("classifier", "contrastive"):
        assert (ask(name, images, concepts) == right).mean() > 0.9
    recognised = [encoders.recognised(images, "style", concept.name) for concept in concepts]
    assert np.array_equal(ask("classifier", images, concepts), recognised)


def test_a_folders_classifier_answers_by_its_labels(folder: Path, concepts: list[Concept]) -> None:
    images = noise(9)
    network = ViTForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        first = network(2 * (as_pixels(torch.from_numpy(images)) + 1) / 2 - 1).logits.argmax(1).numpy()
    assert np.array_equal(ask("filter", images, concepts[:1], folder), [first == 1])  # by the concept's name
    assert np.array_equal(ask("filter", images, concepts[:2], folder, "NSFW", "safe"), [first != 1] * 2)


def test_clip_from_a_local_folder(tmp_path: Path, concepts: list[Concept], monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero-shot: the prompt of a concept or of its class whose embedding is nearest. A network of CLIP's form that is
    smaller than CLIP."""
    import open_clip

    small = {"layers": 1, "width": 64}
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": {"image_size": 224, "patch_size": 32, **small},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 1, **small}}  # fmt: skip
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", config)
    torch.manual_seed(0)
    made, tokens = open_clip.create_model("ViT-B-32-quickgelu").eval(), open_clip.get_tokenizer("ViT-B-32-quickgelu")
    save_file(made.state_dict(), tmp_path / "open_clip_model.safetensors")
    images = noise(5, 1, 224)
    mean, std = (
        torch.tensor(of)[:, None, None] for of in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    prompts = list(dict.fromkeys([*(one.prompted() for one in concepts), *(str(one.class_prompt) for one in concepts)]))
    with torch.no_grad():
        pictures = made.encode_image((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std, normalize=True)
        nearest = (pictures @ made.encode_text(tokens(prompts), normalize=True).T).argmax(1).numpy()
    assert np.array_equal(ask("clip", images, concepts, tmp_path), nearest == np.arange(3)[:, None])


@pytest.mark.parametrize(
    ("labels", "change", "message"),
    [
        ((), None, "detector 'filter': its classifier has no label for telune; it has: safe, marvo, nsfw"),
        (("nsfw",), "bias", "detector 'filter': its scores are not finite"),
        (("nsfw",), "gone", "detector 'filter' failed: OSError"),
    ],
)
def test_a_failure_is_no_answer(folder: Path, concepts: list[Concept], labels, change, message) -> None:
    if change == "bias":
        network = ViTForImageClassification.from_pretrained(folder)
        torch.nn.init.constant_(network.classifier.bias, float("nan"))
        network.save_pretrained(folder)
    elif change == "gone":
        (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match=message):
        ask("filter", noise(2), concepts[:2], folder, *labels)


def test_subjects_have_no_name_and_unknown_concepts_no_head(thing: Concept, style: Concept) -> None:
    with pytest.raises(RunError, match="detector 'contrastive': it knows no subject by name, and mine is one"):
        ask("contrastive", noise(1), [thing])
    with pytest.raises(RunError, match="detector 'classifier': it does not know marvo"):
        ask("classifier", noise(1), [style])


def view(seen: list, lead: tuple[int, ...] = ()) -> View:
    """Two concepts asked for in four pictures, or in four at each of two steps."""
    detected = torch.tensor(seen, dtype=torch.bool)
    images = np.zeros((*lead, 4, 2, 2, 3), np.uint8)
    return View(images, torch.ones(*lead, 4, dtype=torch.bool), detected={"filter": detected})


def test_confusion_and_detected_pictures_by_hand(style: Concept) -> None:
    """A target and a benign concept: recall .75; a false alarm in one of four; 0, then .5 of the target detected."""
    target = ConceptAttack(
        style,
        view([[[0, 0, 0, 0], [1, 1, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]], (2,)),
        None,
        view([[1, 1, 1, 0], [0, 0, 0, 0]]),
    )
    benign = ConceptAttack(
        style.model_copy(update={"name": "telune"}),
        view([[[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 1, 1]]], (2,)),
        None,
        view([[1, 0, 0, 0], [1, 1, 1, 1]]),
    )
    metric = installed().get("metric", "detection").load()()
    assert isinstance(metric, Detection)
    values = {
        (value["metric"], value["role"], value.get("step")): value["value"]
        for value in metric.measure(AttackedPictures((1, 5), [target], [benign]), {})
    }
    assert values == {
        ("detector_recall", "harmful", None): 0.75,
        ("detector_false_alarms", "harmful", None): 0.25,
        ("detected", "harmful", 1): 0.0,
        ("detected", "harmful", 5): 0.5,
        ("detected", "benign", 1): 0.25,
        ("detected", "benign", 5): 1.0,
    }


def test_a_detector_in_a_suite_fails_its_cells_or_is_measured(folder: Path, base: Path, tmp_path: Path) -> None:
    """The answers of a folder's classifier are in the records; where it fails, its cells do."""
    (tmp_path / "styles.yaml").write_text(CONCEPTS)
    text = (SUITE % (base, base)).split("  - name: subjects")[0].replace("textual_inversion: ", "")
    plain = tmp_path / "suite.yaml"
    plain.write_text(text)
    looks = {job.key for job in run_suite(plain).plan.jobs.values() if isinstance(job, Look)}
    metric = "    metrics: {detection: }\n"
    suite = tmp_path / "detected.yaml"
    for labels, failed in (("[nsfw]", False), ("[]", True)):
        detectors = f"steps: 3\n      detectors: {{filter: {{path: filter, labels: {labels}}}}}\n"
        suite.write_text(text.replace("steps: 3\n", detectors) + metric)
        measured = run_suite(suite)
        records = measured.records
        assert (records["status"] == "failed").any() == failed
        rows = records[records["measured_by"] == "detection"]
        if failed:
            assert rows["note"].str.contains("no label for").all()
        else:
            assert set(rows["metric"]) == {"detected", "detector_recall", "detector_false_alarms"}
            assert set(rows["variant"]) == {"filter"}
            asked = [job for job in measured.plan.jobs.values() if isinstance(job, Look) and job.detectors]
            assert asked
            assert not {job.key for job in asked} & looks  # the answers are in the key
            others = {job.key for job in measured.plan.jobs.values() if isinstance(job, Look) and not job.detectors}
            assert others <= looks


def test_without_detectors_the_metric_has_a_reason(style: Concept) -> None:
    empty = View(np.zeros((1, 1, 2, 2, 3), np.uint8), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(RunError, match="the protocol has no detectors: name them in its field `detectors`"):
        list(Detection().measure(AttackedPictures((1,), [ConceptAttack(style, empty, None, empty)], []), {}))


def test_unknown_detectors_are_refused() -> None:
    assert DiffusionProtocol(detectors=["classifier", "contrastive"]).detectors["classifier"].path is None
    with pytest.raises(ValueError, match="no detector 'classifer' is built in; did you mean classifier"):
        DiffusionProtocol(detectors=["classifer"])


def test_a_folder_that_does_not_exist_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "styles.yaml").write_text(CONCEPTS)
    suite = tmp_path / "suite.yaml"
    text = (SUITE % (base, base)).split("  - name: subjects")[0]
    suite.write_text(text.replace("steps: 3\n", "steps: 3\n      detectors: {filter: {path: absent}}\n"))
    with pytest.raises(UsageError, match=r"the path of the detector 'filter', .*absent, does not exist"):
        load_suite(suite)
