"""The digest of a plugin covers all code that it brings, and what runs is the code that the digest covers."""

import ast
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from harness import source
from harness.errors import UsageError
from harness.importing import file_spec
from harness.registry import Registry

ROOT = Path(__file__).parents[1]


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with copies of the packages of built-in plugins, which are found there from now on."""
    for package in ("defenses", "attackers"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("defenses", "attackers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def digests() -> dict[str, str]:
    """Of all built-in plugins, without importing them."""
    entries = [entry for kind in ("defense", "attacker") for entry in Registry().all(kind)]
    return {entry.name: source.digest(source.find_module(entry.module)) for entry in entries}


@pytest.fixture(scope="module")
def unedited() -> dict[str, str]:
    """The digests before any edit."""
    return digests()


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new))


NEWER = {"resalign", "meta_unlearning", "sophon", "rep_noise", "clamp"}
ASCENDING = {"ascent", "joint", "compose", "mima", "mima_variant", "imma"} | NEWER
CHANGES = {
    "defenses/_merge.py": ("base + moved.sum(0)", "base - moved.sum(0)", {"compose", "mima", "mima_variant"}),
    "defenses/_unroll.py": ("lr * _norms(adapted)", "2 * lr * _norms(adapted)",
                            {"joint", "compose", "mima", "mima_variant"}),
    "defenses/_ascent.py": ("(weights, 1.0)", "(weights, 2.0)", ASCENDING),
    "defenses/_bilevel.py": ("step * part for part in right", "2 * step * part for part in right",
                             NEWER | {"mima_variant", "sophon_deep", "clamp_deep"}),
    "defenses/_regularisers.py": ("0.5 * floor**2", "floor**2",
                                 {"condition_number", "condition_number_family", "r_ill", "r_well",
                                  "condition_number_deep"}),
    "defenses/_extractor.py": ("fused=True", "fused=False",
                               {"condition_number", "condition_number_family", "kappa_corridor", "r_ill", "r_well",
                                "opt_kappa", "imma_linear"}),
    "defenses/joint.py": ("weight[0]", "2 * weight[0]", {"joint", "compose"}),
    "attackers/_words.py": (".mean(0)", ".sum(0)", {"custom_diffusion", "prompt", "textual_inversion"}),
    "attackers/_weights.py": ("(weights, 1.0)", "(weights, 2.0)",
                               {"lora", "balanced", "dreambooth", "full", "dreambooth_lora"}),
    "attackers/lora.py": ('"gaussian"', "True", {"lora", "balanced", "dreambooth_lora"}),
}  # fmt: skip


@pytest.mark.parametrize("file", CHANGES)
def test_an_edit_of_shared_code_changes_the_digests_of_its_users_alone(
    unedited: dict[str, str], built_in: Path, file: str
) -> None:
    old, new, users = CHANGES[file]
    replace(built_in / file, old, new)
    after = digests()
    assert {name for name in unedited if unedited[name] != after[name]} == users


UNCOVERED = {
    "docstring": ("defenses/mima.py", '"""Multi-concept immunization by', '"""Immunization of several concepts by'),
    "docstring of a variable": ("defenses/_merge.py", '"""Weights by name in', '"""Weights by names in'),
    "comment": ("defenses/_ascent.py", "# a separate backward pass", "# another remark"),
    "blank line": ("defenses/_merge.py", "        base = pretrained", "\n\n        base = pretrained"),
    "formatting": ("defenses/_merge.py", "(base + moved.sum(0))", "((base\n            + moved.sum(0)))"),
    "preset": ("defenses/mima.py", '"inner_lr": 1.0, "lr": 1e-3', '"inner_lr": 1.0, "lr": 7e-4'),
    "shared preset": ("defenses/_ascent.py", '"steps": 60', '"steps": 70'),
    "description": ("defenses/mima.py", "number of steps of descent before each ascent", "how many steps"),
    "control": ("defenses/ascent.py", "control = True", "control = False"),
    "another file": ("defenses/_unused.py", "", "x = 1"),
}


def test_what_changes_no_result_changes_no_digest(unedited: dict[str, str], built_in: Path) -> None:
    for file, old, new in UNCOVERED.values():
        if old:
            replace(built_in / file, old, new)
        else:
            (built_in / file).write_text(new)
    assert digests() == unedited


@pytest.mark.parametrize(
    ("code", "edited"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = None", "x = ..."),
        ("x = 'a'", "x = b'a'"),
        ("return", "return None"),
        ("f(a, *b)", "f(*b, a)"),
        ("f(description='a')", "f(description='b')"),
        ("x: int", "x: int = 0"),
        ("if a: b()\nelse: c()", "if a: c()\nelse: b()"),
        ("a - (b - c)", "a - b - c"),
        ("del x[:1]", "del x[1:]"),
        ("def f(presets=1): pass", "def f(presets=2): pass"),
        ("class Helper:\n    presets = 1", "class Helper:\n    presets = 2"),
        ("class Helper:\n    control: float = 1.0", "class Helper:\n    control: float = 2.0"),
    ],
)
def test_every_other_difference_of_the_code_counts(tmp_path: Path, code: str, edited: str) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(code)
    second.write_text(edited)
    assert source.code_digest(first) != source.code_digest(second)


PLUGIN = '''
"""A plugin file."""
{imports}
from harness import Defense


class {cls}(Defense):
    """Does what its helper says (test)."""

    track = "any"

    def immunize(self, model, targets):
        {inside}
        yield {value}
'''


def plugin(folder: Path, cls: str, imports: str = "", inside: str = "pass", value: str = "0.0") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{cls.lower()}.py"
    path.write_text(PLUGIN.format(cls=cls, imports=imports, inside=inside, value=value))
    return path


def load(path: Path, name: str):
    return Registry([path]).get("defense", name).load()


@pytest.fixture(autouse=True)
def _python_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of plugin files leave the path, and modules beside them the process, with a test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = {*sys.modules}
    yield
    for name in {*sys.modules} - known:
        if not name.startswith(("harness", "defenses", "attackers")):
            del sys.modules[name]


@pytest.mark.parametrize("installed", [True, False])
def test_packages_in_another_folder_that_pip_installed_them_in_are_not_covered(
    tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install --target`: a library may try imports that this Python lacks, and no digest counts its code."""
    folder = tmp_path / "vendored"
    (folder / "apart").mkdir(parents=True)
    (folder / "apart" / "__init__.py").write_text("import sys\nif sys.version_info > (9,):\n    import not_there\n")
    (folder / "lone.py").write_text("import not_there\n")
    if installed:
        (folder / "apart-1.dist-info").mkdir()
        (folder / "apart-1.dist-info" / "RECORD").write_text("apart/__init__.py,,\nlone.py,,\n")
    monkeypatch.syspath_prepend(folder)
    mine = file_spec("mine", str(plugin(tmp_path, "Mine", inside="import apart; import lone")))
    if installed:
        assert list(source.closure(mine)) == ["mine"]
    else:
        with pytest.raises(UsageError, match="not_there"):
            source.closure(mine)


WAYS = {
    "relative": ("from .one_helper import value", "from .two_helper import x"),
    "package": ("from . import one_helper; value = one_helper.value", "from . import two_helper; x = two_helper.x"),
    "absolute": ("from one_helper import value", "import two_helper; x = two_helper.x"),
    "in a function": ("def value():\n    from one_helper import value\n    return value()", "from two_helper import x"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("edited", ["mine.py", "one_helper.py", "two_helper.py"])
def test_an_edit_beside_a_plugin_file_changes_its_digest_alone_and_runs_at_once(
    tmp_path: Path, way: str, edited: str
) -> None:
    """In one process, within a second, with the same size: neither digest nor bytecode is an old one."""
    imports, further = WAYS[way]
    mine, other = plugin(tmp_path, "Mine", imports, value="value() + 0.1"), plugin(tmp_path, "Other")
    (tmp_path / "one_helper.py").write_text(f"{further}\ndef value():\n    return x + 0.02\n")
    (tmp_path / "two_helper.py").write_text("x = 0.003\n")

    def now() -> tuple[float, str, str]:
        cls = load(mine, "mine")
        return next(cls().immunize(None, None)), cls.source_digest(), load(other, "other").source_digest()

    value, digest, others = now()
    assert value == pytest.approx(0.123)
    assert now() == (value, digest, others)
    old, new, expected = {
        "mine.py": ("+ 0.1", "+ 0.4", 0.423),
        "one_helper.py": ("0.02", "0.05", 0.153),
        "two_helper.py": ("0.003", "0.006", 0.126),
    }[edited]
    replace(tmp_path / edited, old, new)
    value, changed, same = now()
    assert value == pytest.approx(expected)
    assert changed != digest
    assert same == others


def test_two_plugins_that_share_a_helper_both_run_the_new_one(tmp_path: Path) -> None:
    files = {cls: plugin(tmp_path, cls, "import shared_helper", value="shared_helper.x") for cls in ("First", "Second")}
    helper = tmp_path / "shared_helper.py"
    helper.write_text("x = 1.0\n")

    def values() -> list[float]:
        return [next(load(path, cls.lower())().immunize(None, None)) for cls, path in files.items()]

    assert values() == [1.0, 1.0]
    helper.write_text("x = 2.0\n")
    assert values() == [2.0, 2.0]


def test_a_preset_that_is_edited_is_the_new_one(tmp_path: Path) -> None:
    path = plugin(tmp_path, "Mine")
    replace(path, '    track = "any"', '    track = "any"\n    presets = {"one": {}}')
    before = load(path, "mine")
    replace(path, '{"one": {}}', '{"two": {}}')
    after = load(path, "mine")
    assert (list(before.presets), list(after.presets)) == (["one"], ["two"])
    assert after.source_digest() == source.digest(source.find_module(after.__module__))


def test_a_module_that_cannot_be_found_is_named_with_its_place(tmp_path: Path) -> None:
    path = plugin(tmp_path, "Mine", "import one_helper")
    (tmp_path / "one_helper.py").write_text("def f():\n    from not_to_be_found.inner import g\n")
    with pytest.raises(
        UsageError, match=r"one_helper\.py, line 2: module 'not_to_be_found' cannot be found; install it"
    ):
        load(path, "mine")
    replace(tmp_path / "one_helper.py", "from not_to_be_found", "from ...not_to_be_found")
    with pytest.raises(UsageError, match=r"one_helper\.py, line 2: a relative import goes beyond"):
        load(path, "mine")


def test_imports_that_a_file_can_do_without_may_be_missing(tmp_path: Path) -> None:
    imports = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import not_to_be_found\n"
        "try:\n    import not_to_be_found\nexcept ImportError:\n    pass\nimport os.path, numpy as np"
    )
    assert load(plugin(tmp_path, "Mine", imports), "mine").source_digest()


def test_two_helpers_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name.py").write_text(f"x = '{folder}'\n")
    load(plugin(tmp_path / "a", "Mine", "import same_name"), "mine")
    with pytest.raises(
        UsageError, match=r"yours.py, line 3: two modules are called 'same_name': .*a/same_name.py and .*b/"
    ):
        load(plugin(tmp_path / "b", "Yours", "import same_name"), "yours")
    assert load(plugin(tmp_path / "b", "Theirs", "from . import same_name"), "theirs").source_digest()


def test_a_plugin_that_inherits_from_a_built_in_one_covers_its_code(built_in: Path, tmp_path: Path) -> None:
    path = plugin(tmp_path / "mine", "Mine", inside="from defenses.mima import Mima")
    module = f"plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module, path, submodule_search_locations=[str(path.parent)])
    assert {"defenses.mima", "defenses._merge"} < {*source.closure(spec)}
    before = source.digest(spec)
    replace(built_in / "defenses" / "_merge.py", "base + moved.sum(0)", "base - moved.sum(0)")
    assert source.digest(spec) != before


@pytest.mark.parametrize("package", ["defenses", "attackers"])
def test_built_in_plugins_import_only_the_public_face_of_the_harness(package: str) -> None:
    faces = {"harness", "harness.probe", "harness.diffusion", "harness.deep"}
    for path in (ROOT / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            inner = [name for name in names if name.partition(".")[0] == "harness" and name not in faces]
            assert not inner, f"{path.name} imports {inner}"
