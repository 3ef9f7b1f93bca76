"""An attacker that names a concept otherwise than the defense does."""

from itertools import islice

import pytest

from harness.diffusion import Concept, TextToImage
from harness.errors import UsageError
from tests.diffusion.helpers import subject

LORA = {"attacker": "lora", "settings": {"lr": 1e-2, "batch_size": 2}}
OTHER = {"template": "a photo of an artwork by {}", "words": {"marvo": "marvoo"}}


def losses(attacker, model: TextToImage, concept: Concept) -> list[float]:
    generator = attacker.adapt(model, subject(model, concept))
    found = [float(loss) for loss in islice(generator, 3)]
    generator.close()
    return found


@pytest.mark.parametrize(
    ("where", "learned", "drawn"),
    [
        ("training and drawing", "a photo of an artwork by marvoo", "a photo of an artwork by marvoo"),
        ("training", "a photo of an artwork by marvoo", "an artwork by marvo"),
        ("drawing", "an artwork by marvo", "a photo of an artwork by marvoo"),
    ],
)
def test_it_learns_and_draws_other_prompts(where, learned, drawn, model, style, build, monkeypatch) -> None:
    seen = []
    loss = model.denoising_loss
    monkeypatch.setattr(model, "denoising_loss", lambda batch: seen.extend(batch.prompts) or loss(batch))
    attacker = build("attacker", "reworded", **LORA, **OTHER, where=where)
    losses(attacker, model, style)
    assert set(seen) == {learned}
    assert attacker.prompt(style) == drawn
    benign = style.model_copy(update={"name": "telune", "words": "telune"})
    assert attacker.prompt(benign) == drawn.replace("marvoo", "telune").replace("marvo", "telune")


def test_without_other_words_it_is_the_attacker_itself(base, style, build) -> None:
    plain = losses(build("attacker", "lora", **LORA["settings"]), TextToImage.load(str(base)), style)
    assert losses(build("attacker", "reworded", **LORA), TextToImage.load(str(base)), style) == plain


def test_it_asks_for_the_attackers_pictures(build) -> None:
    attacker = build("attacker", "reworded", settings={"prior": 5, "retain": 3})
    assert (attacker.class_images(100), attacker.kept_images(100)) == (5, 3)


@pytest.mark.parametrize("template", ["an artwork", "{} by {}"])
def test_a_template_holds_the_words_once(template: str, build) -> None:
    with pytest.raises(UsageError, match=r"must hold \{\} once"):
        build("attacker", "reworded", template=template)
