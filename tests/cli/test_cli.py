"""The command line as a person uses it."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from harness import files
from harness.cli import app, main
from harness.cli.options import FLAGS
from harness.published import PUBLISHED
from harness.registry import named
from harness.selection import Selection
from harness.store import Store
from harness.suite_reader import load
from tests.helpers import FAULTY, MINE, ROOT, immunebench, process
from tests.runs import TRACK, TWO_LAYER, run, write_suite
from tests.submission import forge


@pytest.fixture(scope="session")
def honest(tmp_path_factory) -> Path:
    """A submission; its run lies beside it in `run`."""
    folder = tmp_path_factory.mktemp("honest")
    return forge.submitted(forge.suite_file(folder), folder, store=folder / "store")


def output(*arguments) -> str:
    """What a command prints; it must succeed."""
    done = immunebench(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_command_is_this_one():
    (command,) = entry_points(group="console_scripts", name="immunebench")
    assert command.load() is main


def test_a_process_ends_with_the_exit_code_and_one_line():
    done = process("run", "digts")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "immunebench: unknown suite 'digts'; did you mean digits?\n"


def test_help_lists_every_command():
    text = output("--help")
    for command in ("run", "attack", "plan", "release", "list", "show", "new", "check", "leaderboard", "submit",
                    "verify", "boards", "docs", "site", "store"):  # fmt: skip
        assert f"\n  {command} " in text
    assert "train-base" not in text


@pytest.mark.parametrize("command", [["run"], ["plan"], ["store", "export"]])
def test_commands_have_every_selection_option_with_its_description(command):
    text = " ".join(output(*command, "--help").split())
    for name, info in Selection.model_fields.items():
        assert " ".join(FLAGS[name]) in text
        assert info.description.rstrip(".") in text


def test_help_names_values_and_arguments_in_capitals():
    commands = [[command.name or command.callback.__name__] for command in app.registered_commands]
    (store,) = app.registered_groups
    commands += [["store", command.name] for command in store.typer_instance.registered_commands]
    texts = {" ".join(command): output(*command, "--help") for command in commands}
    assert len(texts) > 15
    for command, text in texts.items():
        assert not re.search(r"[{}]|<\w", text), command
        for option in re.findall(r"^  (-[^\s,]+(?:, --\S+)?(?: \S+)?)  ", text, re.MULTILINE):
            assert re.fullmatch(r"(-\w, )?--[\w-]+( [A-Z\[][A-Z=\[\]]*)?", option), (command, option)
    assert "Usage: immunebench run [OPTIONS] SUITE\n" in texts["run"]
    assert "Usage: immunebench store export [OPTIONS] FILE.tar [SUITE]...\n" in texts["store export"]
    assert "Run this grid only (repeat for several)." in texts["run"]


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("defenses", "whitening probe θ = (K_P + ρσ₁I)^(-½)"),
        ("attackers", "adam probe Adam on the linear probe"),
        ("suites", "digits probe MNIST digit pairs"),
        ("ensembles", "red_team 1 deep+diffusion+probe lora, "),
        ("metrics", "conditioning probe"),
        ("metrics", "seconds any time inside the defense"),
        ("flags", "few-seeds"),
    ],
)
def test_list(what, line):
    assert line in " ".join(output("list", what).split())


def test_help_and_lists_do_not_import_large_packages():
    code = """
import sys
from harness.cli import main
lists = [["list", what] for what in ("defenses", "attackers", "metrics", "suites", "ensembles")]
for arguments in (["--help"], *lists, ["run", "--help"], ["verify", "--help"]):
    sys.argv = ["immunebench", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
    assert not {"torch", "pandas", "scipy", "matplotlib", "sklearn"} & set(sys.modules), arguments
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lists_of_one_track_and_the_version():
    probe, everything = output("list", "defenses", "--track", "probe"), output("list", "defenses")
    assert "whitening" in probe
    assert "mima" in everything
    assert "mima" not in probe
    assert re.search(r"^none +any", probe, re.MULTILINE)
    assert re.search(r"^deep +deep +Deep networks", output("list", "tracks"), re.MULTILINE)
    assert output("--version") == f"immunebench {version('immunebench')}\n"
    assert "unknown track 'prob'; did you mean probe" in immunebench("list", "metrics", "--track", "prob").stderr


def test_show_a_suite_an_ensemble_a_track_and_a_flag():
    suite = output("show", "suite", "quick")
    assert "grid house_prices (track probe), 2 seeds" in suite
    assert "  attackers: krylov, krylov_standardised, minibatch_adam, ridge, undo" in suite
    ensemble = output("show", "ensemble", "red_team 1")
    assert ensemble.startswith("ensemble red_team 1\n\nA member breaks the undefended model")
    assert "track probe\n  attackers: gradient_descent, nesterov, krylov, " in ensemble
    assert "  threat model matrix-free methods: krylov, krylov_standardised\n" in ensemble
    assert "unknown ensemble 'red_team'; did you mean red_team " in immunebench("show", "ensemble", "red_team").stderr
    track = output("show", "track", "deep")
    assert "rank_one_deep" in track
    assert "metrics of every grid: feature_conditioning, " in track
    assert "Meaning: retains less than 95" in output("show", "flag", "harms")
    assert "did you mean harms" in immunebench("show", "flag", "harm").stderr


def test_names_are_found_in_any_case():
    assert output("show", "attacker", "ADAM") == output("show", "attacker", "adam")
    assert output("show", "metric", "RIR") == output("show", "metric", "rir")
    assert output("show", "metric", "rir").count("RIR: `rir`") == 2  # of the tracks probe and deep


def test_show_a_plugin():
    text = output("show", "attacker", "adam")
    for part in ("Kingma & Ba", "lr: float = 0.01", "[> 0]", "step size", "attackers.adam:Adam (package immunebench)"):
        assert part in text
    assert "preset house_prices: epochs=100" in output("show", "defense", "condition_number")


def test_show_a_plugin_file_a_metric_and_its_quantities():
    file = Path(TWO_LAYER).with_suffix(".py")
    assert "two_layer.py:FullDescent" in output("show", "attacker", "full_descent", "--plugin", file)
    metric = output("show", "metric", "attacked_error", "--plugin", file)
    assert "Measured on the attacked model." in metric
    assert "\nratio: `error_ratio`, error(θ) / error(θ₀)." in metric
    assert "Higher is better for the defender. Averages are geometric means." in metric
    assert output("show", "metric", "error_ratio", "--plugin", file) in metric
    assert "Limits: It does not transfer to another machine" in output("show", "metric", "seconds")


def test_plan_run_and_leaderboard(tmp_path):
    assert "two_layer version 1: 20 cells, 28 jobs" in output("plan", TWO_LAYER, "--workers", 2)
    assert "28 jobs to run; estimated time on 2 workers: unknown" in output("plan", TWO_LAYER, "--workers", 2)
    out = tmp_path / "out"
    text = output("run", TWO_LAYER, "--out", out, "--workers", 1, "--seeds", 1)
    assert "shrinking" in text
    assert f"results are in {out}/" in text
    assert {path.name for path in out.iterdir()} >= {"leaderboard.csv", "leaderboard.md", "run.json.gz"}
    assert set(pd.read_csv(out / "leaderboard.csv")["defense"]) == {"none", "shrinking"}
    assert "FullDescent(lr=0.1)" in set(pd.read_parquet(out / "records.parquet")["attacker_call"])
    assert "0 jobs to run; estimated time on 2 workers: 0 s" in output("plan", TWO_LAYER, "--seeds", 1, "--workers", 2)
    before = (out / "leaderboard.csv").read_text()
    file = Path(TWO_LAYER).with_suffix(".py")
    assert output("leaderboard", out, "--plugin", file).splitlines()[0] in text
    assert (out / "leaderboard.csv").read_text() == before


def test_a_finished_run_is_replaced_by_one_of_another_part_only_by_force(tmp_path):
    part = ["run", TWO_LAYER, "--out", tmp_path, "--workers", 1, "--seeds", 1, "--defense", "none"]
    output(*part)
    kept = (tmp_path / "run.json.gz").read_bytes()
    for change in (["--defense", "shrinking"], ["--set", "attackers.full_descent.lr=1e-3"], ["--task", "1"]):
        done = immunebench(*part, *change)
        assert done.returncode == 2
        assert "holds a run of another part of the suite (teachers: 1 of 2 defenses" in done.stderr
        assert "--force replaces it" in done.stderr
    assert (tmp_path / "run.json.gz").read_bytes() == kept
    output(*part)
    assert output(*part, "--task", 1, "--force", "--quiet") == ""
    assert (tmp_path / "run.json.gz").read_bytes() != kept


def test_a_terminal_gets_a_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["immunebench", "run", str(TWO_LAYER), "--out", str(tmp_path), "--workers", "1"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 80
    assert "| --" not in text
    assert "shrinking" in text


def test_selected_rows_and_settings_reach_the_board(tmp_path):
    out = tmp_path / "out"
    options = ["--defense", "none", "--attacker", "full_descent", "--set", "attackers.full_descent.lr=1e-3"]
    text = output("run", TWO_LAYER, "--out", out, "--workers", 1, *options)
    assert "FullDescent(lr=0.001)" in text
    assert "FullDescent(lr=0.001)" in (out / "rows.csv").read_text()


def test_results_go_to_the_documented_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output("run", TWO_LAYER, "--workers", 1, "--defense", "none", "--seeds", 1)
    assert (tmp_path / "results/runs/two_layer/leaderboard.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "TINY", "--defense", "whitning"], "did you mean whitening"),
        (["run", "TINY", "--set", "attackers.adam.lr=-1"], "lr: must be greater than 0"),
        (["run", "TINY", "--plugin", "absent.py"], "absent.py does not exist"),
        (["plan", "TINY", "--set", "adam.lr=1"], "write defenses.LABEL.FIELD=VALUE"),
        (["show", "attacker", "adm"], "unknown attacker 'adm'; did you mean adam"),
        (["show", "metric", "secnds"], "unknown metric 'secnds'; did you mean seconds"),
        (["leaderboard", "nowhere"], "`immunebench run` writes it"),
        (["store", "export", "x.tar", "--defense", "none"], "name the SUITE too"),
        (["release", "TINY", "none", "out", "--task", "digits"], "has no task 'digits'"),
        (["release", "TINY", "none", "out", "--seed", "9"], "has no seed 9; there are: 1, 2"),
        (["new", "attacker", "mine", "--track", "audio"], "no template for a plugin of track 'audio'"),
        (["list", "cats"], "'cats' is not one of"),
        (["check", "adam", "--set", "rl=1"], "write FIELD=VALUE with a field of Adam; did you mean lr"),
        (["check", "adam", "--set", "lr=-1"], "lr: must be greater than 0"),
        (["run", "TINY", "--out", "TINY"], "cannot write to the folder"),
        (["run", "TINY", "--out", "TINY/x"], "cannot write to the folder"),
        (["run", "TINY", "--out", "/proc/x"], "cannot write to the folder /proc/x"),
        (["run", "TINY", "--out", "~nobody-here/x"], "there is no such home folder"),
        (["release", "quick", "ascent", "TINY"], "has several rows of 'ascent'; give one of them: ascent@lr=0.0015"),
        (["release", "quick", "ascent@lr=0.003", "TINY"], "cannot write to the folder"),
        (["attack", "TINY", "--suite", "TINY"], "there is no folder"),
        (["attack", "nowhere"], "there is no folder"),
        (["verify", "HONEST", "--checkpoint", "mine=nowhere"], "the submission has no such checkpoint"),
        (["leaderboard", "HONEST", "--out", "TINY"], "cannot write to the folder"),
        (["submit", "RUN", "--out", "TINY"], "the name of a submission ends with .json or .json.gz"),
        (["submit", "RUN", "--out", "TINY/x.json"], "cannot write to the folder"),
        (["submit", "RUN", "--out", "/proc/x/y.json"], "cannot write to the folder /proc/x"),
        (["store", "export", "."], "it is a folder; name a file"),
        (["store", "export", "/proc/x.tar"], "cannot write to the folder /proc"),
        (["site", "TINY", "--from", "RUN"], "cannot write to the folder"),
        (["docs", "TINY"], "cannot write to the folder"),
        (["docs", "RUN"], "has a file run.json.gz of another origin"),
        (["release", "quick", "mima", "RUN"], "has a file run.json.gz of another origin"),
        (["leaderboard", "HONEST", "--out", "OTHER"], "holds the files of suite other"),
        (["boards", "--submissions", "RUN"], "has no folders of submissions"),
        (["verify", "HONEST", "--store", "TINY", "--trust"], "cannot use the store"),
        (["run", "TINY", "--seeds", "0"], "Invalid value for '--seeds'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tiny, honest, tmp_path, arguments, message):
    places = {"TINY": tiny, "HONEST": honest, "RUN": honest.parent / "run", "OTHER": tmp_path / "other"}
    with files.replacing(places["OTHER"], "suite other"):
        pass
    for name, path in places.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    done = immunebench(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not Store().keys()


def test_an_error_is_plain_text_on_the_terminal(tiny):
    tiny.write_text(tiny.read_text() + '"\\e[31mred\\r": 1\n')
    done = immunebench("plan", tiny)
    assert done.returncode == 2
    assert r"unknown key '\x1b[31mred" in done.stderr
    assert done.stderr.rstrip("\n").isprintable()


def test_the_website_is_announced_and_found(honest, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.site.build", lambda out, source, refuse, plugins: print("…"))
    for name, file in {"one": "one.json.gz", "two": "run.json.gz"}.items():
        (tmp_path / name).mkdir()
        shutil.copy(honest, tmp_path / name / file)
    for folder, what in ((tmp_path, "1 submission"), (tmp_path / "two", "1 run"), (tmp_path / "no", "0 runs")):
        first, _, last = output("site", "public", "--from", folder).splitlines()
        assert first == f"making the website from {what} in {folder}/"
        assert last == "the website is in public/: open public/index.html"


def test_every_path_of_the_command_line_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = {}
    for command in [*app.registered_commands, *app.registered_groups[0].typer_instance.registered_commands]:
        for name, parameter in inspect.signature(command.callback, eval_str=True).parameters.items():
            kind, info = get_args(parameter.annotation)[:2]
            if Path in (kind, *get_args(kind)) and name != "plugins":  # of `Selection`, expanded by `load`
                paths[f"{command.callback.__name__} {name}"] = info.parser("~/x")
    assert len(paths) > 15
    assert set(paths.values()) == {Path("/home/me/x")}


def test_a_tilde_is_the_home_folder_wherever_a_suite_names_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "track.py").write_text(TRACK.read_text())
    (tmp_path / "attack.py").write_text(MINE)
    (tmp_path / "papers.csv").write_text(",".join(PUBLISHED) + "\n")
    path = write_suite(tmp_path, lambda content: content.update(plugins=["~/track.py"], published="~/papers.csv"))
    for suite in ("~/suite.yaml", path):
        made = load(suite, Selection(plugins=["~/attack.py"]))
        assert made.plugins == (tmp_path / "track.py", tmp_path / "attack.py")
        assert made.published == tmp_path / "papers.csv"
    assert [entry.name for entry in named("~/attack.py")] == ["my_attack"]
    assert "my_attack" in output("show", "attacker", "my_attack", "--plugin", "~/attack.py")
    assert "artifacts, 0.0 MB, in" in output("store", "export", "~/new/some.tar")
    assert (tmp_path / "new" / "some.tar").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.slow
def test_output_is_utf_8_in_files_and_readable_on_a_terminal_of_any_locale(tmp_path):
    run(seeds=1)  # so that the process computes nothing
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    done = process("run", TWO_LAYER, "--seeds", 1, "--workers", 1, cwd=tmp_path, env=environment, errors="strict")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "results" / "runs" / "two_layer" / "leaderboard.md").read_text(encoding="utf-8")
    letters = {letter for letter in text if not letter.isascii()}
    assert letters
    assert done.stdout.isascii()
    assert text.translate(dict.fromkeys(map(ord, letters), "?")) in done.stdout


def test_a_store_of_an_earlier_format_is_one_line_and_exit_code_2(store_root):
    store_root.mkdir()
    (store_root / "store.json").write_text('{"format": 1, "identity": "x"}')
    done = immunebench("plan", TWO_LAYER)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"the store {store_root} has format 1, this harness uses format 2" in line
    assert "IMMUNEBENCH_STORE" in line


def test_a_run_with_failed_cells_lists_reasons_and_exits_with_1(tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY)
    done = immunebench("run", TWO_LAYER, "--workers", 1, "--out", tmp_path / "out", "--plugin", path, "--defense",
                       "none", "--attacker", "full_descent", "--attacker", "early", "--seeds", 1)  # fmt: skip
    assert done.returncode == 1
    assert "4 cells failed:" in done.stderr  # a metric and the run cost of two tasks
    assert "  4 × attacker early ended after 1 of 50 steps" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "leaderboard.csv").is_file()


def test_store_commands_survive_a_damaged_manifest():
    run(defenses=["none"], seeds=1)
    store = Store()
    key = store.keys()[0]
    (store.folder(key) / "manifest.json").write_text("[]")
    assert "damaged" in output("store", "ls")
    assert immunebench("store", "verify").returncode == 1
    assert "damaged" not in output("store", "ls")


def test_store_commands(tmp_path):
    run()
    assert "| two_layer | adapt    | 8 " in output("store", "ls")
    assert output("store", "ls", TWO_LAYER).splitlines()[0] == output("store", "ls").splitlines()[0]
    options = ["--defense", "none", "--seeds", 1]
    assert "12 artifacts" in output("store", "export", tmp_path / "none.tar", TWO_LAYER, *options)
    assert "0 artifacts imported, 12 were in the store" in output("store", "import", tmp_path / "none.tar")
    assert "28 artifacts checked, 0 damaged" in output("store", "verify")
    assert "0 to remove" in output("store", "gc", "--dry-run")
    assert "28 removed" in output("store", "gc", "--unused", 0)


def test_release_needs_a_track_that_saves_models(tmp_path):
    done = immunebench("release", TWO_LAYER, "shrinking", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == "immunebench: track 'two_layer' saves no models\n"
