"""What README and the documentation tell people to type and to write works; the documentation is built, and whole."""

import importlib.util
import re
import shlex
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from harness.cli.reference import build
from harness.diffusion.concepts import GroupBlock
from harness.diffusion.concepts import read as read_concepts
from harness.diffusion.protocol import DiffusionProtocol
from harness.ensemble import EnsembleFile, Members
from harness.ensemble import read as read_ensemble
from harness.errors import RunError
from harness.execution import executors
from harness.fields import fields
from harness.kit import checks
from harness.leaderboard.flags import FLAGS
from harness.plugin import KINDS
from harness.registry import Entry, Registry, installed, named
from harness.suite_file import SuiteFile
from harness.suite_reader import load
from tests.helpers import BLOCKS, EXAMPLES, FILES, PAGES, ROOT, immunebench

SLOW = re.compile(r"^(run quick$|(run (styles|objects|personal|strength)|release quick) )")
COMMANDS: dict[str, list[str]] = {page.name: [] for page in PAGES}
for page, language, block in BLOCKS:
    for line in block.splitlines() if language == "sh" else ():
        if command := line.partition("#")[0].strip().removeprefix(".venv/bin/"):
            COMMANDS[page].append(command)


def shorter(name: str, folder: Path) -> Entry:
    """A suite with few steps, of which few are measured."""
    content = yaml.safe_load((ROOT / "suites" / f"{name}.yaml").read_text())
    content["published"] = str(ROOT / "suites" / content["published"])
    for grid in content["grids"]:
        grid["protocol"] = {"steps": 20, "measure_at": [0, 5, 20]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return Entry("suite", name, "", "", str(path), file=str(path))


def run(command: str, request: pytest.FixtureRequest) -> None:
    """Run a documented `immunebench` command here: few steps, one seed, one grid or split of house prices, one worker
    or the own cluster."""
    if "tcp://head:8786" in command:
        command = command.replace("tcp://head:8786", request.getfixturevalue("cluster").scheduler_address)
    if command.startswith("run house_prices ") and "--grid" not in command:
        command += " --grid house_prices"
    if command.startswith("run quick --grid house_prices "):
        command += " --task 'house_prices split 1'"
    if command.startswith(("run ", "attack ", "plan ")):
        command += " --seeds 1"
    if command.startswith(("run ", "attack ")):
        command += " --workers 1" * ("--cluster" not in command)
    elif command.startswith("verify "):
        command += " --workers 1"
    done = immunebench(*shlex.split(command))
    assert done.returncode == 0, (command, done.stderr)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with the files that the pages have readers write."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name, block in FILES.items():
        (folder / name).write_text(block)
    monkeypatch.setitem(installed()._entries["suite"], "house_prices", shorter("house_prices", tmp_path))
    monkeypatch.chdir(folder)
    return folder


ON_A_CLUSTER = {page for page, commands in COMMANDS.items() if any("tcp://" in command for command in commands)}


QUICK = {"README.md", "index.md"}
"""Pages whose commands run among the fast tests."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            marks=[pytest.mark.xdist_group("cluster")] * (page in ON_A_CLUSTER)
            + [pytest.mark.slow] * (page not in QUICK),
        )
        for page, commands in COMMANDS.items()
        if commands
    ],
)
def test_the_commands_of_a_page_work_in_their_order(page, folder, request):
    makefile = (ROOT / "Makefile").read_text()
    for command in COMMANDS[page]:
        program, _, arguments = command.partition(" ")
        if program == "make":
            assert re.search(rf"^{arguments}:", makefile, re.MULTILINE), command
        elif program == "python":  # the training recipe, which takes over an hour; its loop has a test
            assert importlib.util.find_spec(arguments.split()[1]), command
        elif command != ". .venv/bin/activate":
            assert program == "immunebench"
            if not SLOW.match(arguments):
                run(arguments, request)
        board = folder / "results/runs/house_prices"
        if "--plugin signed.py --defense" in command:
            assert "signed_descent" in (board / "leaderboard.csv").read_text()
        if "--plugin effective_rank.py --attacker" in command:
            assert "effective rank harmful" in (board / "leaderboard.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [command for page in COMMANDS for command in COMMANDS[page] if SLOW.match(command.partition(" ")[2])]
)
def test_the_commands_that_take_minutes_work(command, folder, request):
    run(command.partition(" ")[2], request)


CHECKED = {command.split()[2] for commands in COMMANDS.values() for command in commands if " check " in command}
CHEAPER = {"weakest.py": {"prior": "captions"}, "look_ahead.py": {"draws": 1}}
"""Settings that spare what has tests of its own: pictures of the classes to hold on to, further draws."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name in set(FILES) - CHECKED if name.endswith(".py")))
def test_the_other_documented_plugins_conform(name, folder):
    (entry,) = named(name)
    for check in checks(entry.load(), **CHEAPER.get(name, {})):
        check()


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".yaml")])
def test_documented_suites_load(name, folder):
    assert load(str(folder / name)).grids


@pytest.mark.parametrize(
    ("page", "language", "block"),
    [of for of in BLOCKS if of[1] not in ("sh", "text") and of[2] not in FILES.values()],
    ids=lambda of: of if len(of) < 20 else "",
)
def test_other_blocks(page, language, block, tmp_path, monkeypatch):
    """Python runs; YAML is an ensemble, a concept file or part of a grid of text to image; TOML registers what is
    there."""
    if language == "python":
        monkeypatch.setattr(executors, "default_workers", lambda: 1)
        names: dict = {"__name__": "example"}
        exec(block, names)
        if "result" in names:
            assert set(names["result"].records["defense"]) == {"none", "whitening"}
            assert "<table" in names["result"]._repr_html_()  # what a notebook shows
        else:
            (mark,) = names["test_conforms"].pytestmark
            mark.args[1][0]()  # one of them; the built-in plugins have all elsewhere
    elif language == "yaml" and "rule" in yaml.safe_load(block):
        (tmp_path / "2.yaml").write_text(block)
        assert read_ensemble(tmp_path / "2.yaml").tracks
    elif language == "yaml" and "format" in yaml.safe_load(block):
        (tmp_path / "photos").mkdir()
        path = tmp_path / "concepts.yaml"
        path.write_text(block)
        assert set(read_concepts(path).concepts) == {"my_dog", "my_cat"}
    elif language == "yaml":
        part = yaml.safe_load(block)
        for task in part["tasks"]:
            GroupBlock.model_validate(task, context={"folder": ROOT / "suites"})
        DiffusionProtocol.model_validate(part["protocol"])
    else:
        assert language == "toml"
        (group,) = tomllib.loads(block)["project"]["entry-points"]
        assert group in [f"immunebench.{kind}s" for kind in KINDS]


def test_documented_extras_can_be_installed():
    text = "\n".join(page.read_text() for page in PAGES)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"immunebench\[(\w+)\]", text))
    assert "dask" in named
    assert named <= set(extras)


class Page(HTMLParser):
    """What a page shows and links to."""

    def __init__(self, path: Path):
        super().__init__()
        self.shown, self.links, self.fetched = "", [], []
        self.feed(path.read_text())

    def handle_data(self, data):
        self.shown += data

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        if tag == "a":
            self.links.append(of.get("href", ""))
        if tag in ("script", "link", "img"):
            self.fetched.append(of.get("src") or of.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation, with a page for a plugin file's."""
    folder = tmp_path_factory.mktemp("docs")
    for name, block in FILES.items():
        (folder / name).write_text(block)
    build(folder / "site", [folder / "effective_rank.py", folder / "signed.py", EXAMPLES / "two_layer.py"])
    return folder / "site"


def test_every_plugin_metric_and_suite_has_a_page(site):
    catalogue = Registry([EXAMPLES / "two_layer.py"])
    for kind in (*KINDS, "suite", "ensemble"):
        assert catalogue.all(kind)
        for entry in catalogue.all(kind):
            assert entry.name in Page(site / "reference" / f"{kind}s" / f"{entry.name}.html").shown
    for entry in catalogue.all("metric"):
        shown = " ".join(Page(site / "reference" / "metrics" / f"{entry.name}.html").shown.split())
        for quantity in entry.load().quantities:
            for text in (quantity.description, quantity.formula, quantity.variant, quantity.limits):
                assert " ".join(text.replace("`", "").split()) in shown


def test_a_plugin_files_page_has_its_docstring_and_fields(site):
    shown = Page(site / "reference" / "attackers" / "signed_descent.html").shown
    assert "Bernstein et al., 2018" in shown
    assert "step size" in shown
    assert str(site.parent) not in shown  # no path of this machine


def test_the_flags_are_explained_on_one_page(site):
    shown = " ".join(Page(site / "reference" / "flags.html").shown.split())
    for flag in FLAGS.values():
        for text in (flag.name, flag.meaning, flag.advice):
            assert text.replace("`", "") in shown


def test_the_gallery_has_a_picture_and_a_sentence_of_each_committed_board(site):
    page = Page(site / "gallery.html")
    for board in (ROOT / "results" / "leaderboards").glob("*/leaderboard.md"):
        assert f"results/leaderboards/{board.parent.name}/leaderboard.md" in page.shown
    assert "joint (at least" in page.shown  # of the first grid of `styles`
    assert (site / "gallery" / "styles" / "styles_two_protection.png").is_file()


def test_the_suite_files_reference_has_every_key(site):
    shown = Page(site / "reference" / "suite_file.html").shown
    for field in (*fields(SuiteFile), *fields(EnsembleFile), *fields(Members)):
        assert field.name in shown
        assert field.description, field.name
        assert field.description.replace("`", "") in shown


def test_the_documentation_fetches_nothing_from_a_network(site):
    for path in site.rglob("*.html"):
        for fetched in Page(path).fetched:
            assert not fetched.startswith(("http", "//")), (path.name, fetched)


def test_a_warning_of_mkdocs_is_an_error(site, tmp_path, monkeypatch):
    from harness.cli import reference

    monkeypatch.setattr(reference, "pages", lambda plugins: {"broken.md": "[nowhere](absent.md)"})
    with pytest.raises(RunError, match="was not built"):
        build(tmp_path / "site")
