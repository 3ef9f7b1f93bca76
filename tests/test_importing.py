"""The code that runs is the present code, whatever Python knows of older states of its file; and plugin code that would
end the process is an error in one line."""

import importlib
import importlib.util
import operator
import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest

from harness.errors import PluginError, UsageError
from harness.interrupts import Stopped, contained, stoppable
from harness.registry import Registry
from harness.source import code_digest
from harness.submission import sources

PLUGIN = '''"""A plugin file."""
{imports}
from harness import Defense


class Mine(Defense):
    """Yields its helper's value (a control)."""

    track = "any"

    def immunize(self, model, targets):
        yield {value}
'''


@pytest.fixture(autouse=True)
def _python_path(monkeypatch: pytest.MonkeyPatch):
    """Folders of plugin files leave the path, and modules beside them the process, with a test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = {*sys.modules}
    yield
    for name in {*sys.modules} - known:
        if "plugin_mine" in name or name.startswith("my_helper"):
            del sys.modules[name]


def plugin(folder: Path, imports: str = "import my_helper", value: str = "my_helper.x") -> Path:
    path = folder / "mine.py"
    path.write_text(PLUGIN.format(imports=imports, value=value))
    return path


def value(path: Path) -> float:
    """What the plugin yields now."""
    cls = Registry([path]).get("defense", "mine").load()
    return next(cls().immunize(None, None))


def rewrite(path: Path, text: str) -> None:
    """Write other content of the same length and keep the modification time, as `cp -p` and archives do."""
    stat = path.stat()
    assert len(text.encode()) == stat.st_size
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_bytecode_of_another_source_is_not_run(tmp_path):
    """Python takes a file of the same size and time for the one that was compiled."""
    path, helper = plugin(tmp_path), tmp_path / "my_helper.py"
    helper.write_text("x = 1\n")
    py_compile.compile(str(helper))
    rewrite(helper, "x = 2\n")
    assert value(path) == 2


def test_an_edit_that_keeps_size_and_time_runs_at_once(tmp_path):
    path, helper = plugin(tmp_path), tmp_path / "my_helper.py"
    helper.write_text("x = 1\n")
    before = value(path), code_digest(helper)
    rewrite(helper, "x = 2\n")
    assert value(path) == 2
    assert before[0] == 1
    assert code_digest(helper) != before[1]


def test_a_helper_that_a_notebook_imported_first_is_the_present_one(tmp_path):
    path, helper = plugin(tmp_path), tmp_path / "my_helper.py"
    helper.write_text("x = 1\n")
    sys.path.append(str(tmp_path))
    importlib.import_module("my_helper")
    helper.write_text("x = 2\n")
    os.utime(helper, (1e9, 1e9))  # an old file that was moved here
    assert value(path) == 2


def test_a_helper_that_appears_or_goes_is_used_or_not(tmp_path):
    helper = tmp_path / "my_helper.py"
    path = plugin(tmp_path, "try:\n    from my_helper import x\nexcept ImportError:\n    x = 0", "x")
    assert value(path) == 0
    helper.write_text("x = 1\n")
    assert value(path) == 1
    helper.unlink()
    assert value(path) == 0


def test_a_reloaded_helper_is_the_one_that_is_run(tmp_path):
    """`importlib.reload` and `%autoreload` run another state than the one that was imported."""
    path, helper = plugin(tmp_path), tmp_path / "my_helper.py"
    helper.write_text("x = 1\n")
    assert value(path) == 1
    helper.write_text("x = 2\n")
    importlib.reload(sys.modules["my_helper"])
    helper.write_text("x = 3\n")
    assert value(path) == 3


def test_a_module_without_source_is_read_again(tmp_path):
    path = plugin(tmp_path)
    for number in (1, 2):
        (tmp_path / "text.py").write_text(f"x = {number}\n")
        py_compile.compile(str(tmp_path / "text.py"), cfile=str(tmp_path / "my_helper.pyc"))
        assert value(path) == number


def test_a_compiled_module_that_changes_is_refused(tmp_path):
    """Python cannot import it twice in one process."""
    compiled = Path(str(importlib.util.find_spec("markupsafe._speedups").origin))
    if compiled.suffix == ".py":
        pytest.skip("markupsafe is not compiled here")
    shutil.copy(compiled, tmp_path)
    path = plugin(tmp_path, "from . import _speedups", "1.0")
    assert value(path) == 1
    (tmp_path / compiled.name).touch()
    with pytest.raises(UsageError, match=f"compiled module .*{compiled.name} has changed.*start a new process"):
        value(path)
    path.write_text(path.read_text() + "\n")  # also from now on
    with pytest.raises(UsageError, match="start a new process"):
        value(path)


ENCODINGS = {"a byte order mark": ("", "utf-8-sig"), "latin-1": ("# -*- coding: latin-1 -*-\n", "latin-1")}


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_file_in_another_encoding_is_read_as_python_does(tmp_path, name):
    line, encoding = ENCODINGS[name]
    path = plugin(tmp_path, "x = 'é'", "float(len(x))")
    path.write_bytes((line + path.read_text()).encode(encoding))
    assert value(path) == 1
    with sources.importable(sources.gather([path]), tmp_path / "again") as (copy,):
        assert value(copy) == 1
        assert code_digest(copy) == code_digest(path)


ENDS = {"exit": "SystemExit(0)", "exit with a text": "SystemExit('no')", "interrupt": "KeyboardInterrupt"}


@pytest.mark.parametrize("raised", ENDS.values(), ids=ENDS)
def test_a_plugin_that_ends_the_process_cannot_be_imported(tmp_path, raised):
    path = plugin(tmp_path, f"raise {raised}", "0.0")
    with (
        stoppable("SIGINT"),
        pytest.raises(UsageError, match=r"cannot import plugin .*mine\.py: plugin code .* at mine\.py:2"),
    ):
        value(path)


@pytest.mark.parametrize("raised", [*ENDS.values(), "KeyError('lost')"])
def test_a_plugin_that_ends_the_process_when_it_is_created_is_refused(tmp_path, raised):
    path = plugin(tmp_path, "", "0.0")
    path.write_text(path.read_text() + f"\n    def __post_init__(self):\n        raise {raised}\n")
    with stoppable("SIGINT"), pytest.raises(UsageError, match="row 'mine': the plugin cannot be created: "):
        Registry([path]).get("defense", "mine").spec({}, "row 'mine'")


def test_ctrl_c_is_not_taken_for_the_plugins_own():
    """Only where a handler tells the two apart does a plain `KeyboardInterrupt` come from plugin code."""
    with pytest.raises(KeyboardInterrupt), contained():
        raise KeyboardInterrupt
    with stoppable("SIGINT"), pytest.raises(Stopped) as stopped, contained():
        os.kill(os.getpid(), 2)
    assert stopped.value.exit_code == 130
    with stoppable("SIGINT"), pytest.raises(PluginError, match="raised KeyboardInterrupt"), contained():
        raise KeyboardInterrupt


def test_a_plugin_that_changes_the_folder_leaves_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with contained():
        os.chdir("other")
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("module", "name", "patch"),
    [
        ("harness.meter", "LARGEST_NORM", 1e99),
        ("harness.plugin", "PluginSpec.shipped", True),
        ("harness.submission.agreement", "RELATIVE", 1e9),  # no module has imported it before
    ],
)
def test_a_plugin_that_changes_what_the_harness_holds_is_refused(tmp_path, monkeypatch, module, name, patch):
    if module == "harness.submission.agreement":
        monkeypatch.delitem(sys.modules, module, raising=False)
    path = plugin(tmp_path, f"import {module}\n{module}.{name} = {patch}", "0.0")
    with pytest.raises(UsageError, match=rf"replaces {module}\.{name} when it is imported"):
        value(path)
    assert operator.attrgetter(name)(sys.modules[module]) != patch
