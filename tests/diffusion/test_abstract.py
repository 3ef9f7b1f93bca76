"""Counted memory against what torch's allocator reports, counted arithmetic against a count by hand."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from harness import configured, plan
from harness.demands import DEVICES, LAUNCH, SHARE, Demand, Work, lines
from harness.diffusion import TextToImage
from harness.diffusion.abstract import AbstractModel, Counter
from harness.diffusion.demands import demands, drawing, training
from harness.diffusion.stages import Attack
from tests.diffusion.helpers import load_suite, xl_pipeline
from tests.diffusion.reference import targets
from tests.diffusion.whole_suite import write_suite
from tests.helpers import immunebench


def _risen(work) -> int:
    """The highest memory that the allocator gave out within `work()`, by the profiler's record of each event."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    now = highest = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "saving"),
    [("mima", {}, False), ("ascent", {"batch_size": 2}, True)],
)
def test_counted_memory_is_what_the_allocator_gave_out(
    base: Path, build, name: str, settings: dict, saving: bool
) -> None:
    abstract, model = AbstractModel(str(base), checkpointing=saving), TextToImage.load(str(base))
    if saving:
        model.checkpoint()
    defense = build("defense", name, prior="none", **settings)
    with abstract.counting() as counter:
        before = counter.bytes
        list(islice(defense.immunize(abstract.model, abstract.targets(2)), 2))
    real = _risen(lambda: list(islice(defense.immunize(model, targets(model)), 2)))
    assert counter.peak - before == pytest.approx(real, rel=0.1)


def test_arithmetic_of_a_linear_layer_and_freed_memory() -> None:
    layer, counter = torch.nn.Linear(32, 8, bias=False), Counter()
    counter.add(layer.weight)
    with counter:
        rows = torch.zeros(5, 32)
        held = layer(rows)
        own = 4 * (32 * 8 + 5 * 32)
        assert (counter.flops, counter.bytes) == (2 * 5 * 32 * 8, own + 4 * 5 * 8)
        assert counter.kernels == 2  # zeros and the product, not the layer's transposed weights
        del held
    assert (counter.bytes, counter.peak) == (own, own + 4 * 5 * 8)


def test_saving_needs_less_memory_and_more_arithmetic(base: Path) -> None:
    spec = configured("defense", "ascent", {"prior": "none", "steps": 7})
    plain, saving = (training(spec, str(base), "fp32", on, 2) for on in (False, True))
    assert saving.peak < plain.peak
    assert saving.further.flops > plain.further.flops
    assert saving.further.kernels > plain.further.kernels
    assert plain.steps == 7


def test_an_attacks_pictures_are_drawn_beside_what_it_keeps(base: Path) -> None:
    """That is its weights and both moments of Adam, without the gradients."""
    spec, unet = configured("attacker", "dreambooth", {"batch_size": 1}), AbstractModel(str(base)).model.unet
    trained, alone = training(spec, str(base), "fp32", True, 1), drawing(str(base), "fp32")
    moments = 2 * sum(weight.nbytes for weight in unet.parameters())
    assert trained.drawing == pytest.approx(alone.peak + moments, rel=0.02)


@pytest.mark.slow
def test_a_plan_counts_what_its_jobs_need(base: Path, tmp_path: Path) -> None:
    suite = write_suite(tmp_path, base)
    chosen = {"defenses": ["none", "ascent"], "attackers": ["lora"]}
    jobs = plan.make(load_suite(suite, **chosen)).jobs.values()
    counted = {demand.what: demand for demand in demands(jobs)}
    assert {"erase", "captions", "draw_pictures", "draw", "immunize ascent", "attack lora"} <= set(counted)
    attacks = [job for job in jobs if type(job) is Attack]
    lora, picture = training(attacks[0].plugin, str(base), "fp32", True, 1), drawing(str(base), "fp32")
    each = lora.first + lora.further + 2 * (2 * picture.step + picture.decode)  # two steps, two pictures of two steps
    demand = counted["attack lora"]
    assert (demand.jobs, demand.kept) == (len(attacks), len(attacks) * 2 * 3 * 16 * 16)
    assert demand.work is not None
    assert demand.work.flops == pytest.approx(len(attacks) * each.flops)
    assert demand.work.kernels == pytest.approx(len(attacks) * each.kernels)
    assert demand.peak == max(lora.peak, lora.drawing)
    assert counted["immunize ascent"].transient > 0 == counted["immunize none"].transient
    assert counted["draw"].peak == counted["draw_pictures"].peak + picture.weights  # of a copy


@pytest.mark.slow
def test_a_device_is_reported_for_each_family(tmp_path: Path) -> None:
    xl_pipeline().save_pretrained(tmp_path / "base")
    suite = write_suite(tmp_path, tmp_path / "base")
    done = immunebench("plan", suite, "--device", "A100", "--defense", "none", "--attacker", "lora")
    assert done.returncode == 0, done.stderr
    assert "attack lora" in done.stdout
    assert "not counted" not in done.stdout
    assert "(fits in 80 GB)" in done.stdout


def test_small_kernels_take_the_time_to_start_them() -> None:
    assert DEVICES["H100"].hours(Work(1e12, 3600 / LAUNCH), "bf16") == pytest.approx(1)


def test_a_device_that_is_too_small() -> None:
    work = Work(312e12 * SHARE * 7200, 7000 / LAUNCH)
    told = lines([Demand("attack lora", 3, "bf16", work, int(30e9), int(2e9))], DEVICES["A100"])
    assert "2.00 h" in told[0]
    assert "30.0 GB at most" in told[2]
    assert "(fits in 80 GB)" in told[2]
    assert "does NOT fit in 24 GB" in lines([Demand("attack lora", 3, peak=int(30e9))], DEVICES["RTX4090"])[2]
