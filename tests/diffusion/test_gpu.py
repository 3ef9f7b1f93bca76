"""Every attacker and defense on a GPU and the CPU: cells on the small base, steps at Stable Diffusion's size in bf16.

Without a GPU these tests are skipped; what they do then runs on a tiny pipeline, twice on the CPU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from harness.diffusion import TextToImage
from harness.diffusion import encoders as networks
from harness.diffusion.pipeline_stage import forget_base
from harness.diffusion.stages import Attack
from harness.meter import pull
from harness.registry import installed
from harness.store import Store
from harness.store.tensors import load_tensors
from tests.diffusion.helpers import run_suite, subject
from tests.diffusion.reference import CAPTIONS, targets
from tests.diffusion.whole_suite import write_stable_diffusion, write_suite

DEFENSES: dict[str, dict[str, Any]] = {
    "ascent": {},
    "mima": {},
    "mima_variant": {},
    "joint": {},
    "compose": {},
    "imma": {"settings": {"batch_size": 1}},
    "resalign": {"attackers": 1, "attack_steps": (2,), "products": 2},
    "meta_unlearning": {"inner_steps": 2},
    "sophon": {"inner_steps": 2},
    "rep_noise": {"samples": 8},
    "clamp": {"inner_steps": 2},
    "gauge": {},
}
"""Settings by name, beside those of all defenses with steps."""
ATTACKERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "balanced": {},
    "dreambooth": {},
    "full": {},
    "dreambooth_lora": {},
    "textual_inversion": {},
    "custom_diffusion": {"prior": 2},
    "prompt": {},
    "reworded": {"settings": {"batch_size": 1}},
}
PLUGINS = [*(("defense", name) for name in DEFENSES), *(("attacker", name) for name in ATTACKERS)]


def _settings(kind: str, name: str, steps: int) -> dict[str, Any]:
    """Settings of a plugin, which takes `steps` small steps."""
    batch = {} if name in ("gauge", "reworded") else {"batch_size": 1}
    few = {} if kind == "attacker" or name == "gauge" else {"steps": steps, "prior": "captions"}
    return {**batch, **few, **{"defense": DEFENSES, "attacker": ATTACKERS}[kind][name]}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch):
    """`device("cpu")`: what is loaded from now on is on this device."""
    there = torch.cuda.is_available()

    def use(name: str) -> None:
        forget_base()
        networks.load.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there and name == "cuda")

    yield use
    use("cuda")


class Steps(NamedTuple):
    """What a plugin did. losses: of each step, and of the model on other pictures afterwards. seconds: of a step. peak:
    highest memory on the GPU, in bytes."""

    losses: list[float]
    seconds: float
    peak: int


def _steps(kind: str, name: str, base: str, precision: str, count: int) -> Steps:
    """Let a plugin take `count` steps on one concept, with checkpointing in bf16."""
    model = TextToImage.load(base, precision)
    if precision == "bf16":
        model.checkpoint()
    plugin = installed().get(kind, name).spec(_settings(kind, name, count), "test").build()
    side = model.unet.config.sample_size * model.pipeline.vae_scale_factor
    of = targets(model, ("marvo",), side)
    data = of if kind == "defense" else subject(model, of[0].concept, side=side)
    losses: list[float] = []

    def noted() -> Iterator[Any]:
        for loss in plugin.generator(model, data):
            losses.append(float(loss))
            yield loss

    torch.manual_seed(0)
    cost = pull(noted(), name, None if kind == "defense" else count)
    peak = torch.cuda.max_memory_allocated() if model.device.type == "cuda" else 0
    with torch.no_grad():
        losses.append(float(model.denoising_loss(next(of.kept(len(CAPTIONS))))))
    return Steps(losses, cost.seconds / cost.steps, peak)


def _compare(kind: str, name: str, base: str, precision: str, device, record_property, first: str) -> None:
    """One or two steps on the device `first` and on the CPU give the same losses, within the precision."""
    found = []
    for place in (first, "cpu"):
        device(place)
        found.append(_steps(kind, name, base, precision, 1 if precision == "bf16" else 2))
    record_property("seconds_a_step", found[0].seconds)
    record_property("peak_gib", found[0].peak / 2**30)
    assert len(found[0].losses) == len(found[1].losses) > 1
    assert found[0].losses == pytest.approx(found[1].losses, rel=0.05 if precision == "bf16" else 0.01)


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_steps_on_the_small_base(kind: str, name: str, device, record_property) -> None:
    _compare(kind, name, "small", "fp32", device, record_property, "cuda")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline of random weights with the sizes of Stable Diffusion 1, for pictures of 64 pixels."""
    folder = tmp_path_factory.mktemp("large")
    write_stable_diffusion(folder, 64)
    return str(folder)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_step_at_stable_diffusions_size(kind: str, name: str, large: str, device, record_property) -> None:
    _compare(kind, name, large, "bf16", device, record_property, "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_the_comparison_of_steps(kind: str, name: str, precision: str, base: Path, device, record_property) -> None:
    _compare(kind, name, str(base), precision, device, record_property, "cpu")


def test_each_plugin_of_the_track_is_compared() -> None:
    """But the undefended row and weights from files."""
    of_track = [(kind, entry.name) for kind in ("defense", "attacker") for entry in installed().all(kind)
                if entry.load().track == "diffusion"]  # fmt: skip
    assert set(of_track) == set(PLUGINS)


class Cells(NamedTuple):
    """Runs of suites. pictures: of each attack by its key. costs: seconds of a step and MiB, by the name of the row."""

    pictures: dict[str, np.ndarray]
    costs: dict[str, tuple[float, float]]


def _cells(folder: Path, base: str) -> Cells:
    """Run each defense against LoRA, and each attacker against no defense: on one concept, two steps each."""
    defenses, attackers = (
        {name: _settings(kind, name, 2) for name in names}
        for kind, names in (("defense", DEFENSES), ("attacker", ATTACKERS))
    )
    cells = Cells({}, {})
    for name, rows, columns in (
        ("defenses", {"none": {}, **defenses}, {"lora": attackers["lora"]}),
        ("attackers", {"none": {}}, attackers),
    ):
        measured = run_suite(write_suite(folder / name, base, rows, columns, ("marvo",)))
        assert not measured.failed
        for key, job in measured.plan.jobs.items():
            if isinstance(job, Attack):
                cells.pictures[key] = load_tensors(Store().folder(key) / "images.safetensors")["images"].numpy()
        told = measured.records[measured.records["step"].isna()].fillna({"attacker": ""})
        for row, values in told.groupby(["defense", "attacker"]):
            cost = values.set_index("metric")["value"]
            cells.costs[" ".join(row).strip()] = cost["seconds"] / cost["plugin_steps"], cost["peak_mb"]
    return cells


def _compare_cells(folder: Path, base: str, device, monkeypatch, record_property, first: str) -> None:
    """All pictures by attacked models are alike on the device `first` and on the CPU: within three levels of 255 on
    average."""
    found = []
    for place, name in ((first, "first"), ("cpu", "second")):
        device(place)
        (folder / name).mkdir()
        monkeypatch.setenv("IMMUNEBENCH_STORE", str(folder / name / "store"))
        found.append(_cells(folder / name, base))
    for row, (seconds, peak) in found[0].costs.items():
        record_property(row, f"{seconds:.4f} s a step, {peak:.0f} MiB")
    assert found[0].pictures.keys() == found[1].pictures.keys()
    for key, images in found[0].pictures.items():
        assert np.abs(images.astype(int) - found[1].pictures[key]).mean() <= 3, key


@pytest.mark.gpu
def test_cells_on_the_small_base(tmp_path: Path, device, monkeypatch: pytest.MonkeyPatch, record_property) -> None:
    _compare_cells(tmp_path, "small", device, monkeypatch, record_property, "cuda")


@pytest.mark.slow
def test_the_comparison_of_cells(
    base: Path, tmp_path: Path, device, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    _compare_cells(tmp_path, str(base), device, monkeypatch, record_property, "cpu")
