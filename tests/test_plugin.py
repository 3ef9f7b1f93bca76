"""Plugins: validated, frozen, found without importing them; one name, one plugin."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.plugin import KINDS, Defense, Plugin
from harness.registry import Entry, Registry, installed, snake_case
from tests.helpers import MINE


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def every():
    return [entry for kind in KINDS for entry in installed().all(kind)]


@pytest.mark.parametrize("entry", every(), ids=lambda entry: entry.name)
def test_built_ins_are_documented_frozen_dataclasses(entry):
    cls = entry.load()
    assert issubclass(cls, Plugin)
    plugin = entry.spec({}, "test").build()
    assert dataclasses.is_dataclass(plugin)
    assert eval(repr(plugin), {cls.__name__: cls}) == plugin  # the repr is the call that makes it
    for field in dataclasses.fields(plugin):
        assert cls.__pydantic_fields__[field.name].description, f"{entry.name}.{field.name} has no description"
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(plugin, field.name, 1)
    with pytest.raises(TypeError):
        cls(0.5)
    for preset in cls.presets:
        assert entry.spec({}, "test", preset)


@pytest.mark.parametrize("entry", every(), ids=lambda entry: entry.name)
def test_the_registry_reads_from_source_what_the_class_says(entry):
    cls = entry.load()
    assert entry.about["track"] == cls.track
    assert entry.about["kind"] == cls.kind
    assert entry.about["doc"].split() == cls.__doc__.split()
    assert entry.about["summary"].endswith(".")


def test_describing_plugins_imports_neither_torch_nor_pandas():
    code = (
        "import sys; from harness.registry import installed; registry = installed();"
        "[entry.about for kind in ('defense', 'attacker', 'metric') for entry in registry.all(kind)];"
        "sys.exit(bool({'torch', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_is_a_plugin(mine):
    entry = installed().with_files([mine]).get("attacker", "my_attack")
    assert entry.about["track"] == "probe"
    assert entry.about["summary"] == "Steps down by hand (nobody, 2026)."
    assert str(mine) in entry.origin
    spec = entry.spec({"lr": 1e-3}, "here")
    assert spec.params == {"lr": 1e-3, "standardise": False, "intercept": False}
    assert spec.call == str(spec) == "MyAttack(lr=0.001)"
    assert spec.package is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lr": -1}, "greater than 0"),
        ({"lr": "fast"}, "must be a number"),
        ({"lr": float("nan")}, "finite"),
        ({"rate": 1}, "no field 'rate'; there are: intercept, lr, standardise"),
        ({"lrr": 1}, "did you mean lr"),
    ],
)
def test_bad_settings_say_where_and_what(mine, params, message):
    with pytest.raises(UsageError, match=message) as caught:
        installed().with_files([mine]).get("attacker", "my_attack").spec(params, "suite.yaml, grid 'g'")
    assert str(caught.value).startswith("suite.yaml, grid 'g'")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field",
    [
        "strength: float = Field(1.0, exclude=True)",
        "strength: float = 1.0\n    def __post_init__(self): object.__setattr__(self, 'strength', 2 * self.strength)",
    ],
)
def test_settings_that_a_worker_would_not_get_are_refused(mine, field):
    """A job runs the plugin that its key names: the one built from the written settings."""
    file = mine.with_name("lossy.py")
    file.write_text(f"from harness import Attacker, Field\n\nclass Lossy(Attacker):\n    track = 'any'\n    {field}\n")
    with pytest.raises(UsageError, match=r"here: Lossy built from its own settings .* is another plugin"):
        Registry([file]).get("attacker", "lossy").spec({"strength": 3.0}, "here")


def test_unknown_names_hint_at_the_nearest():
    with pytest.raises(UsageError, match="unknown attacker 'adm'; did you mean adam"):
        installed().get("attacker", "adm")
    with pytest.raises(UsageError, match="no preset 'houses'; did you mean house_prices"):
        installed().get("defense", "r_ill").spec({}, "here", "houses")


def test_two_plugins_under_one_name_name_both_origins(tmp_path):
    path = tmp_path / "clash.py"
    path.write_text(MINE.replace("MyAttack", "Adam"))
    with pytest.raises(UsageError, match=r"two attackers are called 'adam': attackers.adam:Adam .*clash.py:Adam"):
        installed().with_files([path])


def test_two_suites_under_one_name_name_both_origins():
    registry = Registry()
    with pytest.raises(UsageError, match=r"two suites are called 'quick': .*suites/quick.yaml and /else/quick.yaml"):
        registry._add(Entry("suite", "quick", "elsewhere", "", "/else/quick.yaml", "/else/quick.yaml"))


def test_files_that_are_no_plugins_are_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        installed().with_files([tmp_path / "absent.py"])
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1")
    with pytest.raises(UsageError, match="holds no defense, attacker or metric"):
        installed().with_files([empty])
    broken = tmp_path / "broken.py"
    broken.write_text("class (:")
    with pytest.raises(UsageError, match="cannot read plugin file"):
        installed().with_files([broken])
    failing = tmp_path / "failing.py"
    failing.write_text("import nothing_of_this_name\n" + MINE)
    with pytest.raises(
        UsageError, match=r"failing.py, line 1: module 'nothing_of_this_name' cannot be found; install it"
    ):
        installed().with_files([failing]).get("attacker", "my_attack").load()


def test_a_plugins_identity_includes_its_source(mine, tmp_path):
    before = installed().with_files([mine]).get("attacker", "my_attack").spec({}, "").source
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(MINE)
    assert (
        installed().with_files([other]).get("attacker", "my_attack").spec({}, "").source == before
    )  # not where it lies
    edited = tmp_path / "edited.py"
    edited.write_text(MINE.replace("alpha=self.lr", "alpha=self.lr / 2"))
    assert installed().with_files([edited]).get("attacker", "my_attack").spec({}, "").source != before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("GradientDescent", "gradient_descent"), ("LBFGS", "lbfgs"), ("RIll", "r_ill"), ("Adam2", "adam2")],
)
def test_snake_case(name, expected):
    assert snake_case(name) == expected


def test_the_source_digest_ignores_the_control_mark(tmp_path):
    """Finished results are keyed by the digest."""
    digests = set()
    for i, line in enumerate(("", "    control = True\n", "    presets = {}\n")):
        path = tmp_path / f"mine{i}.py"
        path.write_text(
            'from harness import Defense\n\n\nclass Mine(Defense):\n    """Mine."""\n\n    track = "any"\n' + line
            + "\n    def immunize(self, model, targets):\n        yield 0.0\n"
        )  # fmt: skip
        entry = installed().with_files([path]).get("defense", "mine")
        digests.add(entry.load().source_digest())
        assert entry.spec({}, "test").control == ("control" in line)
    assert len(digests) == 1


def test_an_invalid_default_is_one_clear_line(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        'from harness import Defense, Field\n\n\nclass Wrong(Defense):\n    """Wrong."""\n\n    track = "any"\n'
        '    lr: float = Field("abc", gt=0, description="step size")\n'
    )
    entry = installed().with_files([path]).get("defense", "wrong")
    with pytest.raises(UsageError, match="here: lr: must be a number"):
        entry.spec({}, "here")


def test_a_plugin_without_its_method_says_which_it_lacks():
    class Bare(Defense):
        track = "any"

    with pytest.raises(NotImplementedError, match=r"Bare has no method immunize\(self, model, targets\)"):
        Bare().generator(None, None)
