"""What README and the documentation tell people to type and to write works; the documentation is built, and whole."""

import re
import shlex
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from harness.cli.reference import build, fields
from harness.diffusion.concepts import GroupBlock
from harness.diffusion.concepts import read as read_concepts
from harness.diffusion.protocol import Protocol
from harness.errors import RunError
from harness.leaderboard.flags import FLAGS
from harness.plugin import KINDS
from harness.registry import Catalogue
from harness.suite import SuiteFile, load

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]
BLOCKS = [
    (page.name, language, block)
    for page in PAGES
    for language, block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)
    if not block.startswith("--8<--")  # the examples in their folder, which have tests of their own
]
LINES = dict.fromkeys(
    line.partition("#")[0].strip() for _, language, block in BLOCKS if language == "sh" for line in block.splitlines()
)
COMMANDS = dict.fromkeys(
    line.removeprefix(".venv/bin/").removeprefix("immunebench ") for line in LINES if "immunebench " in line
)
SLOW = re.compile(r"^run (styles|objects|personal|strength)|^release|^train-base")
FILES = {  # those that name themselves in their first line
    match[1]: block
    for _, language, block in BLOCKS
    if (match := re.match(r'(?:"""|# )([a-z_]+\.(?:py|yaml))', block)) and language in ("python", "yaml")
}


def immunebench(command: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *shlex.split(command)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepared(folder: Path) -> Path:
    """A folder with all that the pages have readers write down."""
    for name, block in FILES.items():
        (folder / name).write_text(block)
    return folder


@pytest.mark.parametrize("line", LINES)
def test_every_line_is_of_a_kind_that_is_tested(line):
    assert re.match(r"(\.venv/bin/)?immunebench |make [\w-]+$|\. \.venv/bin/activate$", line) or not line


@pytest.mark.parametrize(
    "command",
    [pytest.param(line, marks=pytest.mark.slow if SLOW.search(line) else ()) for line in COMMANDS
     if not line.startswith("train-base")],  # an hour and more, and needs its training data; the loop has its own test
)  # fmt: skip
def test_commands(command, tmp_path):
    folder = prepared(tmp_path)
    before = {
        "store import": "store export baselines.tar quick",
        "check momentum.py": "new attacker momentum --track probe",
        "site": "run house_prices --defense none --attacker adam --seeds 1 --workers 1",
        "leaderboard": "run house_prices --defense none --attacker adam --seeds 1 --workers 1",
    }
    for start, needed in before.items():
        if command.startswith(start):
            immunebench(needed, folder)
    if command.startswith(("submit", "verify")):
        immunebench("run house_prices --defense none --attacker adam --seeds 1 --workers 1", folder)
        immunebench("submit results/runs/house_prices", folder)
        command += " --workers 1" * command.startswith("verify")
    command = command.replace("tcp://head:8786", "local:2")
    if command.startswith("run "):
        command += " --seeds 1" + " --workers 1" * ("--cluster" not in command)
    immunebench(command, folder)
    if "--plugin signed.py --defense" in command:
        assert "signed_descent" in (folder / "results/runs/house_prices/leaderboard.csv").read_text()
    if "--plugin effective_rank.py --attacker" in command:
        assert "effective_rank harmful" in (folder / "results/runs/house_prices/leaderboard.md").read_text()


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".py")])
def test_plugins_conform(name, tmp_path):
    immunebench(f"check {prepared(tmp_path) / name}", tmp_path)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".yaml")])
def test_suites_load(name, tmp_path):
    assert load(str(prepared(tmp_path) / name)).grids


@pytest.mark.parametrize(
    ("page", "language", "block"),
    [of for of in BLOCKS if of[1] not in ("sh", "text") and of[2] not in FILES.values()],
    ids=lambda of: of if len(of) < 20 else "",
)
def test_other_blocks(page, language, block, tmp_path):
    """Python runs; YAML is a concept file or part of a grid of text to image; TOML registers what is there."""
    if language == "python":
        names: dict = {"__name__": "example"}
        exec(block, names)
        if "result" in names:
            assert set(names["result"].records["defense"]) == {"none", "whitening"}
            assert "<table" in names["result"]._repr_html_()  # what a notebook shows
        else:
            (mark,) = names["test_conforms"].pytestmark
            mark.args[1][0]()  # one of them; the built-in plugins have all elsewhere
    elif language == "yaml" and "format" in yaml.safe_load(block):
        (tmp_path / "photos").mkdir()
        path = tmp_path / "concepts.yaml"
        path.write_text(block)
        assert set(read_concepts(path).concepts) == {"my_dog", "my_cat"}
    elif language == "yaml":
        part = yaml.safe_load(block)
        for task in part["tasks"]:
            GroupBlock.model_validate(task, context={"folder": ROOT / "suites"})
        Protocol.model_validate(part["protocol"])
    else:
        assert language == "toml"
        (group,) = tomllib.loads(block)["project"]["entry-points"]
        assert group in [f"immunebench.{kind}s" for kind in KINDS]


def test_what_it_tells_to_make_and_to_install_is_there():
    text = "\n".join(page.read_text() for page in PAGES)
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE))
    assert {"quick", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = set(re.findall(r"immunebench\[(\w+)\]", text))
    assert "dask" in asked
    assert asked <= set(extras)


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
    prepared(folder)
    build(folder / "site", [folder / "effective_rank.py", folder / "signed.py", EXAMPLES / "two_layer.py"])
    return folder / "site"


def test_every_plugin_metric_and_suite_has_a_page(site):
    catalogue = Catalogue([EXAMPLES / "two_layer.py"])
    for kind in (*KINDS, "suite"):
        assert catalogue.all(kind)
        for entry in catalogue.all(kind):
            assert entry.name in Page(site / "reference" / f"{kind}s" / f"{entry.name}.html").shown
    for entry in catalogue.all("track"):
        for metric in entry.load().metrics:
            shown = Page(site / "reference" / "metrics" / entry.name / f"{metric.name}.html").shown
            for text in (metric.description, metric.formula, metric.policy, metric.limits):
                assert " ".join(text.replace("`", "").split()) in " ".join(shown.split())


def test_a_plugin_files_page_has_its_docstring_and_fields(site):
    shown = Page(site / "reference" / "attackers" / "signed_descent.html").shown
    assert "Bernstein et al., 2018" in shown
    assert "step size" in shown
    assert str(site.parent) not in shown  # no path of this machine


def test_the_flags_are_explained_on_one_page(site):
    shown = " ".join(Page(site / "reference" / "flags.html").shown.split())
    for flag in FLAGS.values():
        for text in (flag.name, flag.meaning, flag.todo):
            assert text.replace("`", "") in shown


def test_the_suite_files_reference_has_every_key(site):
    shown = Page(site / "reference" / "suite_file.html").shown
    for field in fields(SuiteFile):
        assert field.name in shown
        assert field.description, field.name
        assert field.description in shown


def test_it_is_read_without_a_network(site):
    for path in site.rglob("*.html"):
        for fetched in Page(path).fetched:
            assert not fetched.startswith(("http", "//")), (path.name, fetched)


def test_of_each_metric_it_is_said_how_it_is_computed_and_what_it_cannot_tell():
    for entry in Catalogue().all("track"):
        for metric in entry.load().metrics:
            assert metric.formula, metric.name
            assert metric.limits, metric.name


def test_a_warning_is_an_error(site, tmp_path, monkeypatch):
    from harness.cli import reference

    monkeypatch.setattr(reference, "pages", lambda plugins: {"broken.md": "[nowhere](absent.md)"})
    with pytest.raises(RunError, match="was not built"):
        build(tmp_path / "site")
