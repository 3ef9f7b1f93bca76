"""The conformance kit passes plugins without faults and names planted faults."""

import re
from pathlib import Path

import pytest
import torch

from harness import meter
from harness.errors import UsageError
from harness.kit import Fault, checks
from harness.plugin import KINDS
from harness.registry import installed, named

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "two_layer.py"
BUILT_IN = [(entry.kind, entry.name) for kind in KINDS for entry in installed().all(kind)]
SLOW = (
    "custom_diffusion", "dreambooth", "dreambooth_lora", "full", "balanced", "prompt", "textual_inversion",
    "gauge", "joint", "compose", "imma", "mima", "mima_variant",
    "condition_number_deep", "opt_kappa_deep", "imma_deep",
    "ascent", "lora", "reworded", "released_success",
    "resalign", "meta_unlearning", "sophon", "rep_noise", "clamp", "sophon_deep", "clamp_deep",
)  # fmt: skip


def faults(cls, preset: str | None = None) -> dict[str, str]:
    """The messages of the checks that fail."""
    messages = {}
    for check in checks(cls, preset, files=[EXAMPLE]):
        try:
            check()
        except Fault as fault:
            messages[str(check)] = str(fault)
    return messages


def plugin(kind, name):
    """A case of a test, slow for one that changes most of a U-Net or several models, or takes long."""
    marks = [pytest.mark.slow] if name in SLOW else []
    return pytest.param(kind, name, marks=marks, id=f"{kind}-{name}")


@pytest.mark.parametrize(("kind", "name"), [plugin(*built_in) for built_in in BUILT_IN])
def test_built_in_plugins_have_no_fault(kind, name):
    cls = installed().get(kind, name).load()
    assert faults(cls, "small" if "small" in cls.presets else None) == {}


@pytest.mark.parametrize("entry", named(str(EXAMPLE)), ids=lambda entry: entry.name)
def test_plugins_of_a_third_track_have_no_fault(entry):
    assert faults(entry.load()) == {}


ATTACK = '''"""An attack (test)."""
import torch
from harness import Attacker, Field


class Attack(Attacker):
    """Gradient descent (Cauchy, 1847)."""

    track = "two_layer"
    lr: float = Field(0.1, gt=0, lt=2, description="step size")

    def adapt(self, model, data):
        size = self.lr
        # at first
        while True:
            with torch.enable_grad():
                loss = (model(data.x) - data.y).square().mean()
                gradients = torch.autograd.grad(loss, list(model.parameters()))
            for weight, gradient in zip(model.parameters(), gradients):
                weight.data.sub_(size * gradient)
            yield loss
'''
DEFENSE = '''"""A defense (test)."""
import torch
from harness import Defense, Field


class Shrink(Defense):
    """Shrinks the weights (control)."""

    track = "two_layer"
    share: float = Field(0.999, gt=0, le=1, description="factor of a step")

    def immunize(self, model, targets):
        for step in range(40):
            # at a step
            with torch.no_grad():
                model[0].weight.mul_(self.share)
            yield 0.0
'''
PROBE_ATTACK = '''"""An attack (test)."""
from harness.probe import ProbeAttacker


class Attack(ProbeAttacker):
    """Gradient descent (Cauchy, 1847)."""

    def adapt(self, model, data):
        size = 1 / model.smoothness(data)
        while True:
            # at a step
            loss, gradient = model.gradient(data)
            model.weight.data.sub_(size * gradient)
            yield loss
'''
PIPELINE_DEFENSE = '''"""A defense (test)."""
import torch
from harness import Field
from harness.diffusion import DiffusionDefense, WeightSet


class Shrink(DiffusionDefense):
    """Shrinks the weights (control)."""

    weights: WeightSet = Field("keys_values", description="what is changed")

    def immunize(self, model, targets):
        for step in range(4):
            # at a step
            with torch.no_grad():
                for weight in model.weights("keys_values").values():
                    weight.mul_(0.999)
            yield 0.0
'''
METRIC = '''"""A metric (test)."""
import torch
from harness import Metric, Quantity


class Size(Metric):
    """Norm of the first weights (control)."""

    track = "two_layer"
    quantities = (Quantity(name="size", title="size", description="norm"),)

    def measure(self, model, data):
        size = float(model[0].weight.detach().norm())
        # at first
        yield self.value(size)
'''
ATTACKED = METRIC.replace('    track = "two_layer"\n', '    track = "two_layer"\n    measures = "attacked"\n').replace(
    "model[0]", 'model["attacked"][0]'
)


def planted(tmp_path: Path, source: str, old: str, new: str) -> dict[str, str]:
    assert old in source
    path = tmp_path / "planted.py"
    path.write_text(source.replace(old, new))
    (entry,) = named(str(path))
    return faults(entry.load())


@pytest.mark.parametrize("source", [ATTACK, PROBE_ATTACK, DEFENSE, PIPELINE_DEFENSE, METRIC, ATTACKED],
                         ids=["attack", "probe", "defense", "pipeline", "metric", "attacked"])  # fmt: skip
def test_without_a_planted_fault_there_is_none(tmp_path, source):
    assert planted(tmp_path, source, "(test)", "(a test)") == {}


STEP = "                weight.data.sub_(size * gradient)\n"
LAST = "            yield loss\n"
FAULTS = {
    "no description": (ATTACK, ', description="step size"', "", "fields", "no description"),
    "no bound": (ATTACK, "0.1, gt=0, lt=2, ", "0.1, ", "fields", "is a number without a bound"),
    "no source": (ATTACK, "(Cauchy, 1847)", "", "docstring", "names no source"),
    "no docstring": (ATTACK, '    """Gradient descent (Cauchy, 1847)."""\n', "", "docstring", "no docstring"),
    "a computed docstring": (ATTACK, '"""Gradient descent (Cauchy, 1847)."""', '__doc__ = "Descent" + " (1847)."',
                             "listing", "cannot be read from its source"),
    "not picklable": (ATTACK, "    def adapt", "    def __getstate__(self):\n        raise TypeError('a lock')\n\n"
                      "    def adapt", "pickles", "cannot be pickled: a lock"),
    "a device": (ATTACK, "# at first", "torch.zeros(1, device='cuda:0') if False else 0", "device", "'cuda:0'"),
    "moves to a device": (ATTACK, "# at first", "data.x.cuda() if False else 0", "device", "calls .cuda()"),
    "raises": (ATTACK, "# at first", "raise ValueError('nothing')", "runs", "does not run: ValueError: nothing"),
    "no generator": (ATTACK, LAST, "            return loss\n", "runs", "must be a generator"),
    "no yield": (ATTACK, "        while True:", "        return None\n        while True:", "runs", "yielded nothing"),
    "nan": (ATTACK, "yield loss", "yield float('nan')", "runs", "a loss of nan"),
    "no number": (ATTACK, "yield loss", "yield 'low'", "runs", "yielded str"),
    "global random numbers": (ATTACK, "# at first", "torch.rand(1)", "random_numbers", "numbers of torch"),
    "numpy's random numbers": (ATTACK, "# at first", "__import__('numpy').random.rand()", "random_numbers", "of numpy"),
    "the global seed": (ATTACK, "# at first", "size *= 0.5 + torch.initial_seed() % 97 / 200", "random_numbers",
                        "depends on the state of global random generators"),
    "a clock": (ATTACK, "# at first", "size *= 1 + 1e-6 * (__import__('time').time_ns() % 1009)", "repeats",
                "two runs with the same seed differ"),
    "changes its data": (PROBE_ATTACK, "# at a step", "data.x.mul_(0.999)", "changes", "changes the data given: x"),
    "changes nothing": (ATTACK, STEP, "                pass\n", "changes", "changes nothing"),
    "other weights": (PIPELINE_DEFENSE, "# at a step", "model.weights('unet')['conv_in.bias'].data.add_(1)", "changes",
                      "should not: unet.conv_in.bias"),
    "text encoder": (PIPELINE_DEFENSE, "# at a step", "next(model.text_encoder.parameters()).data.add_(1)", "changes",
                     "should not: text_encoder"),
    "yields too often": (ATTACK, LAST, 2 * LAST, "progress", "no weight changed between yields 1 and 2"),
    "memory": (ATTACK, STEP, STEP + "            kept.append(loss.clone())\n", "memory", "rose by"),
    "memory of a defense": (DEFENSE, "            yield 0.0", "            yield kept.append(torch.ones(1)) or 0.0",
                            "memory", "rose by"),
    "evaluation mode": (DEFENSE, "# at a step", "model.eval()", "model_state", "is in evaluation mode"),
    "another dtype": (DEFENSE, "# at a step", "model[2].float()", "model_state", "has dtype torch.float32"),
    "a hook": (DEFENSE, "# at a step", "model.register_forward_hook(lambda *_: None)", "model_state", "hooks"),
    "gradients off": (DEFENSE, "# at a step", "model.requires_grad_(False)", "model_state", "are off"),
    "gradients remain": (DEFENSE, "# at a step", "model(targets.x).mean().backward()", "model_state", "remain"),
    "another default dtype": (DEFENSE, "# at a step", "torch.set_default_dtype(torch.float64)", "process",
                              "torch's default dtype is float64"),
    "an alarm": (DEFENSE, "# at a step", "__import__('signal').alarm(1000)", "process", "an alarm is set"),
    "patches the harness": (DEFENSE, "# at a step", "__import__('harness').meter.count_gradient = print", "process",
                            "it replaces harness.meter.count_gradient"),
    "overflows": (DEFENSE, "# at a step", "model[0].weight.data.fill_(float('inf'))", "released", "are not finite"),
    "scales weights": (DEFENSE, "# at a step", "model[0].weight.data.mul_(1e6)", "released", "the norm of the base"),
    "hides a buffer": (DEFENSE, "# at a step", "model.register_buffer('hidden', targets.x)", "released",
                       "it adds net.hidden"),
    "another layer": (DEFENSE, "# at a step", "model[2] = torch.nn.Linear(16, 2)", "released", "it was torch.float64"),
    "peeks at the data": (DEFENSE, "import torch\n", "import torch\nimport harness.probe.data\n", "imports",
                          "it imports harness.probe.data: import from harness, harness.probe"),
    "spies on an attacker": (DEFENSE, "import torch\n", "import torch\nimport attackers.adam\n", "imports",
                             "a defense knows no attacker"),
    "censors a seed": (DEFENSE, "# at a step", "if targets.seed == 3: raise ValueError('bad luck')", "seeds",
                          "it does not run with the seed 3: ValueError: bad luck"),
    "forges an artifact": (DEFENSE, "# at a step", "__import__('os').makedirs(STORE + '/artifacts')", "runs",
                           "plugin code may not change"),
    "reads an artifact": (DEFENSE, "# at a step", "open(STORE + '/store.json')", "runs", "plugin code may not read"),
    "an attack that forges": (ATTACK, "# at first", "open(STORE + '/store.json', 'w')", "runs", "may not change"),
    "starts a program": (DEFENSE, "# at a step", "__import__('os').system('true')", "runs", "may not start programs"),
    "no gradients at all": (ATTACK, "# at first", "torch.set_grad_enabled(False)", "model_state",
                            "gradients are off in torch as a whole"),
    "ends": (ATTACK, "while True:", "for _ in range(30):", "endless", "it ended after 30 steps"),
    "weak": (ATTACK, "size = self.lr", "size = 1e-6 * self.lr", "success", "does not break"),
    "grows weaker": (ATTACK, "yield loss", "size *= 1.12\n            yield loss", "more_steps", "grows weaker"),
    "no quantities": (METRIC, 'quantities = (Quantity(name="size", title="size", description="norm"),)', "",
                      "quantities", "declares no quantities"),
    "one name twice": (METRIC, '"norm"),)', '"norm"),) * 2', "quantities", "have one name"),
    "another model": (METRIC, '    track = "two_layer"', '    track = "two_layer"\n    measures = "both"', "quantities",
                      "write released or attacked"),
    "an undeclared quantity": (METRIC, "yield self.value(size)", 'yield {"metric": "other", "value": size}', "values",
                               "'other', which is none of its quantities"),
    "no value": (METRIC, "yield self.value(size)", "yield size", "values", "something else than a value"),
    "a metric's clock": (METRIC, "# at first", "size += __import__('time').time_ns()", "repeats", "differ"),
    "a metric that changes the model": (METRIC, "# at first", "model[0].weight.data.add_(1)", "changes",
                                        "should not: net.0.weight"),
    "a metric that leaves gradients": (ATTACKED, "# at first", 'model["attacked"](data.x).mean().backward()',
                                       "model_state", "gradients of net.0"),
    "a metric that draws": (ATTACKED, "# at first", "size += float(torch.rand(1))", "random_numbers", "of torch"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "old", "new", "check", "message"), FAULTS.values(), ids=FAULTS)
def test_planted_faults_are_caught(tmp_path, source, old, new, check, message):
    new = new.replace("STORE", "__import__('os').environ['IMMUNEBENCH_STORE']")
    if "kept" in new:
        source = source.replace("        # at first", "        kept = []").replace(
            "        for step", "        kept = []\n        for step"
        )
    try:
        messages = planted(tmp_path, source, old, new)
    finally:
        torch.set_grad_enabled(True)
    assert message in messages.get(check, ""), messages


def test_a_plugin_that_changes_the_harness_when_it_is_imported_is_refused(tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(f"import harness.meter\n{DEFENSE}\nharness.meter.Cost.save = harness.meter.count_gradient = None\n")
    (entry,) = named(str(path))
    count, save = meter.count_gradient, meter.Cost.save
    with pytest.raises(UsageError, match=r"planted\.py replaces harness\.meter\.\S+ when it is imported"):
        entry.load()
    assert (meter.count_gradient, meter.Cost.save) == (count, save)


def test_a_faulty_plugin_is_run_on_every_track_and_named_with_it(tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(DEFENSE.replace('"two_layer"', '"any"').replace("# at a step", "raise ValueError('nothing')"))
    (entry,) = named(str(path))
    runs = {str(check) for check in checks(entry.load(), files=[EXAMPLE]) if str(check).startswith("runs")}
    assert runs == {"runs[deep]", "runs[diffusion]", "runs[probe]", "runs[two_layer]"}


def test_an_unknown_track_or_preset_is_refused(tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(DEFENSE.replace('"two_layer"', '"two_layers"'))
    (entry,) = named(str(path))
    with pytest.raises(UsageError, match="belongs to track 'two_layers', which is unknown here; did you mean two_l"):
        checks(entry.load(), files=[EXAMPLE])
    with pytest.raises(UsageError, match="has no preset 'strong'; it has: none"):
        checks(entry.load(), "strong", files=[EXAMPLE])


def test_the_command_lists_checks_and_faults(tmp_path, capsys):
    import typer

    from harness.cli.inspect import check

    path = tmp_path / "planted.py"
    track = EXAMPLE.read_text()
    path.write_text(track.replace("(Cauchy, 1847)", ""))
    with pytest.raises(typer.Exit) as ended:
        check(str(path))
    assert ended.value.exit_code == 1
    lines = capsys.readouterr().out.splitlines()
    (fault,) = [line for line in lines if "FAULT" in line]
    assert re.match(" *FAULT  docstring: the docstring names no source", fault)
    assert "defense shrinking" in lines
    with pytest.raises(UsageError, match=r"no plugin is called 'adm'.*did you mean adam"):
        named("adm")
