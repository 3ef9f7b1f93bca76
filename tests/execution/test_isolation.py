"""What plugin code does to its process, it does to nothing else: a failed cell with its reason, and the other rows as
they would be without it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from harness.errors import PluginError
from harness.execution import child, executors, scheduler
from harness.execution.released import weights_of
from harness.plan import make
from harness.probe.data import ProbeTargets
from harness.probe.model import Extractor
from harness.selection import Selection
from harness.store import Store
from harness.suite_reader import load
from tests.helpers import ROOT
from tests.runs import TRACK, Run, run, values, write_suite

FAULTS = r'''
"""Plugins that break their process."""
import gc
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from harness import Attacker, Defense, Field, Metric, Quantity
from harness.probe import ProbeDefense

ATTACKERS = Path(sys.modules["harness"].__file__).parents[1] / "attackers"

class Silent(Exception):
    def __str__(self):
        raise ValueError

    __repr__ = __str__


class Base(BaseException):
    pass


def throw(error):
    raise error


def forget():
    if os.fork() == 0:
        time.sleep(1000)
        os._exit(0)


KEPT = []
FAULTS = {
    "exits": lambda: os._exit(0),
    "sys_exits": lambda: sys.exit(0),
    "base": lambda: throw(Base("at all")),
    "generator_exit": lambda: throw(GeneratorExit()),
    "silent": lambda: throw(Silent()),
    "surrogate": lambda: throw(ValueError("\udc80 bad")),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "kills": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "folder": lambda: (os.mkdir("x"), os.chdir("x"), os.rmdir("../x")),
    "path": lambda: sys.path.clear(),
    "environment": lambda: os.environ.pop("PATH"),
    "alarm": lambda: signal.alarm(1000),
    "handler": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "forgets": forget,
    "thread": lambda: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(),
    "files": lambda: KEPT.extend(open(os.devnull) for _ in range(200)),
    "memory": lambda: KEPT.extend(bytearray(2**30) for _ in range(10**6)),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "gradients": lambda: torch.set_grad_enabled(False),
    "prints": lambda: print("\udc80"),
}


def act(fault):
    if fault in FAULTS:
        FAULTS[fault]()
    elif fault.startswith("/"):
        shutil.rmtree(fault)


class Bad(ProbeDefense):
    """Halves the weights, after its fault (test)."""

    deterministic = True
    fault: str = Field("", description="what it does")

    def immunize(self, model, targets):
        yield 1.0
        act(self.fault)
        with torch.no_grad():
            model.weight.mul_(0.5)
            match self.fault:
                case "overflow":
                    model.weight.fill_(float("inf"))
                case "large":
                    model.weight.mul_(1e5)
                case "in_place":
                    targets.harmful.x.sub_(1)
                case "patches":
                    import harness.probe.data

                    harness.probe.data.load = harness.probe.data.digest = None
        match self.fault:
            case "hooks":
                model.register_forward_hook(lambda *_: 1 / 0)
                model.requires_grad_(False)
            case "module":
                model.extra = torch.nn.Linear(2, 2)
            case "floats":
                model.float()
            case "peeks":
                from harness.probe.data import load
                from harness.probe.tasks import Task

                load(Task(data="house_prices"))
            case "searches":
                held = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and len(one.shape) == 2]
                if any(len(one) == 100 for one in held) or any(name.startswith("IMMUNEBENCH") for name in os.environ):
                    raise ValueError("found held-out rows or the store")
                if platform.processor() is None:
                    raise ValueError("a library needs a program")
            case "spies":
                sys.path.append("")
                (ATTACKERS / "adam.py").read_text()
            case "unguards":
                from harness.execution import child

                child._WRITE = child._LISTING = child._CHANGING = ()
                child.PluginError = ValueError
                os.path.realpath = os.fsdecode = os.getsid = lambda path: "/nowhere"
                (ATTACKERS / "adam.py").read_text()
            case "lists":
                os.listdir(ATTACKERS)
            case "pipe" | "sparse":
                from harness.execution import released

                released.save_tensors = lambda tensors, path: (
                    os.mkfifo(path) if self.fault == "pipe" else open(path, "wb").truncate(2**40)
                )
            case "starts":
                subprocess.run(["cat", ATTACKERS / "adam.py"], check=True)
            case "nan":
                yield float("nan")
        yield 0.0


class BadAttacker(Attacker):
    """Plain descent, after its fault (test)."""

    track = "two_layer"
    fault: str = Field("", description="what it does")

    def adapt(self, model, data):
        act(self.fault)
        while True:
            loss = (model(data.x) - data.y).square().mean()
            loss.backward()
            with torch.no_grad():
                for weight in model.parameters():
                    weight.sub_(0.05 * weight.grad)
                    weight.grad = None
            yield float("nan") if self.fault == "nan" else loss


class BadMetric(Metric):
    """Measures nothing (test)."""

    track = "two_layer"
    quantities = (Quantity(name="nothing", title="nothing", description="nothing"),)
    fault: str = Field("", description="what it does")

    def measure(self, model, data):
        act(self.fault)
        yield self.value(0.0, role="harmful")
'''
REASONS = {
    "exits": "plugin code ended its process with exit code 0: raise an error",
    "sys_exits": "plugin code called sys.exit(0) at faults.py",
    "base": "plugin code raised Base('at all') at faults.py",
    "generator_exit": "plugin code raised GeneratorExit() at faults.py",
    "silent": "Silent at faults.py",
    "surrogate": r": \udc80 bad",
    "segfault": "its process was ended by SIGSEGV",
    "kills": "plugin code may not send signals to other processes",
    "folder": "the working folder is deleted",
    "path": "sys.path is another one",
    "environment": "the environment variable PATH is another one",
    "alarm": "an alarm is set",
    "handler": "SIGTERM has another handler",
    "forgets": "1 of its processes still run",
    "thread": "1 of its threads still run",
    "files": "200 files are left open",
    "memory": "MemoryError at faults.py",
    "dtype": "torch's default dtype is float64",
    "gradients": "the recording of gradients is False",
    "nan": "a loss of nan at step",
}
"""By fault of any plugin, what the reason of its failed cell says."""
DEFENSES = {
    "overflow": "left weights that are not finite",
    "module": "released a model that has more tensors than the base model: extra.bias",
    "floats": "as torch.float32; the base model has torch.float64",
    "peeks": "plugin code may not read",
    "spies": "plugin code may not read",
    "unguards": "plugin code may not read",
    "lists": "plugin code may not read",
    "starts": "plugin code may not start programs",
    "pipe": "defense bad gave back no weights: [Errno 22] it is no regular file",
    "sparse": "defense bad gave back no weights: longer than 16 MiB",
}
"""By fault of a defense, the same."""
HARMLESS = ("prints", "in_place", "patches", "hooks", "searches")

SUITE = """
format: 1
name: faults
version: 1
title: Faults
seeds: 1
plugins: [faults.py]
grids:
  - name: house_prices
    track: probe
    tasks: [{{data: house_prices}}]
    protocol: {{steps: 5, measure_at: [5]}}
    metrics: {{definition: }}
    defenses:
      none:
{rows}
    attackers: {{}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the plugins."""
    path = tmp_path_factory.mktemp("faults")
    (path / "faults.py").write_text(FAULTS)
    return path


def run_rows(folder: Path, faults: dict[str, str], store: Path) -> Run:
    """Run the defense with each of the faults, by label."""
    rows = "\n".join(f"      {label}: {{plugin: bad, fault: '{fault}'}}" for label, fault in faults.items())
    (folder / "suite.yaml").write_text(SUITE.format(rows=rows))
    plan, artifacts = make(load(str(folder / "suite.yaml"), Selection.of())), Store(store)
    failed = scheduler.run(plan, artifacts, executors.Serial())
    return Run(plan, failed, values(plan, artifacts, failed))


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory) -> pd.DataFrame:
    """The values of the undefended row and of the defense without a fault."""
    return run_rows(folder, {"bad": ""}, tmp_path_factory.mktemp("alone")).values


@pytest.fixture(scope="module")
def defended(folder, tmp_path_factory) -> Run:
    """A run of the defense with all faults, one of which deletes the store."""
    patch = pytest.MonkeyPatch()
    patch.setattr(child, "memory", lambda: 2**31)
    store = tmp_path_factory.mktemp("store")
    faults = {label: label for label in (*REASONS, *DEFENSES, *HARMLESS, "large")}
    try:
        return run_rows(folder, {**faults, "deletes": str(store)}, store)
    finally:
        patch.undo()


def notes(result: Run, row: str, kind: str = "defense") -> set[str]:
    rows = result.values[result.values[kind] == row]
    assert set(rows["status"]) == {"failed"}
    return set(rows["note"])


@pytest.mark.parametrize("fault", [*REASONS, *DEFENSES])
def test_a_fault_of_a_defense_is_a_failed_cell(defended, fault):
    (note,) = notes(defended, fault)
    assert {**REASONS, **DEFENSES}[fault] in note
    assert note.isprintable()


def test_a_defense_does_not_change_the_store(defended):
    (note,) = notes(defended, "deletes")
    assert note.startswith("plugin code may not change")


@pytest.mark.parametrize("fault", HARMLESS)
def test_what_a_defense_does_to_its_own_copies_changes_no_value(defended, alone, fault):
    row, expected = (
        table.loc[table["defense"] == label] for table, label in ((defended.values, fault), (alone, "bad"))
    )
    assert set(row["status"]) == {"ok"}
    assert row["value"].equals(expected["value"].set_axis(row.index))


def test_the_other_rows_are_the_same_to_the_bit(defended, alone):
    rows = defended.values[defended.values["defense"] == "none"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, alone[alone["defense"] == "none"].reset_index(drop=True))


def test_weights_that_grew_ten_thousand_times_are_flagged(defended):
    flagged = defended.values[defended.values["flag"] == "large-weights"]
    assert list(flagged["defense"]) == ["large"]
    assert flagged["value"].item() == pytest.approx(0.5e5)


@pytest.mark.parametrize("kind", ["attacker", "metric"])
def test_a_fault_of_an_attacker_or_a_metric_is_a_failed_cell(folder, monkeypatch, kind):
    """A whole track in a plugin file, whose jobs run in processes of their own."""
    monkeypatch.setattr(child, "memory", lambda: 2**31)
    faults = ["exits", "base", "memory", *(["nan", "dtype", "path", "forgets"] if kind == "attacker" else []), ""]
    name = f"bad_{kind}"

    def change(suite):
        rows = {fault or name: {"plugin": name, "fault": fault} for fault in faults}
        suite["seeds"] = 1
        suite["plugins"] = [str(TRACK), str(folder / "faults.py")]
        suite["grids"][0] |= {"tasks": [{"teacher": 1}], "defenses": {"none": None}}
        if kind == "attacker":
            suite["grids"][0]["attackers"] = {"full_descent": None, **rows}
        else:
            suite["grids"][0]["metrics"] = {**rows}

    result = run(write_suite(folder, change))
    label = "attacker" if kind == "attacker" else "measured_by"
    for fault in faults[:-1]:
        (note,) = notes(result, fault, label)
        assert REASONS[fault] in note
    ok = result.values[result.values[label] == name]
    assert set(ok["status"]) == {"ok"}


@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: None])
def test_a_child_is_ended_with_all_that_it_has_left(tmp_path, end):
    """Also a process in a session of its own, whose parent has ended."""

    def note(name: str) -> None:
        (tmp_path / f"{name}.part").write_text(str(os.getpid()))
        (tmp_path / f"{name}.part").replace(tmp_path / name)

    def leaves() -> str:
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                note("daemon")
                time.sleep(1000)
            note("left")
            time.sleep(1000)
        while not all((tmp_path / name).exists() for name in ("left", "daemon")):
            time.sleep(0.01)
        end()
        return ""

    with contextlib.suppress(PluginError):
        child.call(leaves)
    assert not [name for name in ("left", "daemon") if psutil.pid_exists(int((tmp_path / name).read_text()))]


def test_a_child_tells_how_it_ended():
    with pytest.raises(PluginError, match="exit code 3"):
        child.call(lambda: os._exit(3))
    with pytest.raises(child.Killed, match="ended by SIGSEGV"):
        child.call(lambda: os.kill(os.getpid(), signal.SIGSEGV) or "")


class Endless:
    """A call that notes its process and its server's in the folder."""

    def run_alone(self, folder: Path) -> None:
        (folder / "part").write_text(json.dumps([os.getppid(), os.getpid()]))
        (folder / "part").replace(folder / "running")
        time.sleep(1000)


def test_a_killed_worker_takes_its_server_and_the_call_with_it(tmp_path):
    code = f"""
from pathlib import Path
from harness.execution import server
from tests.execution.test_isolation import Endless
server.run(Endless(), Path({str(tmp_path)!r}), {{}})
"""
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (tmp_path / "running").exists():
        assert worker.poll() is None
        time.sleep(0.05)
    processes = [psutil.Process(pid) for pid in json.loads((tmp_path / "running").read_text())]
    worker.kill()
    worker.wait()
    _, alive = psutil.wait_procs(processes, timeout=100)
    assert not alive


def test_a_child_sees_no_token(monkeypatch):
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "MY_PASSWORD", "MY_SETTING", "HF_ENDPOINT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    names = set(json.loads(child.call(lambda: json.dumps([*os.environ]))))
    assert names >= {"PATH", "HF_ENDPOINT", "OMP_NUM_THREADS"}
    assert not names & {"HF_TOKEN", "OPENAI_API_KEY", "MY_PASSWORD", "MY_SETTING"}
    with pytest.raises(PluginError, match="may not read /proc/"):
        child.call(lambda: Path("/proc/self/environ").read_text())


def test_the_server_has_done_what_each_call_would_do_again():
    """The first optimiser of a process imports hundreds of modules. Threads would be lost in its children."""
    code = """
import os, sys, threading
from harness.execution import server
tasks = len(os.listdir("/proc/self/task"))
server.warm_up()
modules = {*sys.modules}
assert threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == tasks
import torch
weight = torch.ones(1, requires_grad=True)
optimiser = torch.optim.AdamW([weight])
weight.square().sum().backward()
optimiser.step()
print(len({*sys.modules} - modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 0


def test_a_child_has_its_own_folder_and_streams(capfd):
    def looks() -> str:
        print("to the standard error")
        return json.dumps([os.getcwd(), input_is_empty(), os.listdir()])

    def input_is_empty() -> bool:
        return sys.stdin.read() == ""

    folder, empty, files = json.loads(child.call(looks))
    assert (empty, files) == (True, [])
    assert not Path(folder).exists()
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "to the standard error\n")


def test_the_call_of_a_defense_holds_training_rows_only():
    rows = ProbeTargets.__dataclass_fields__.keys()
    assert set(rows) == {"benign", "harmful", "family", "seed"}
    assert set(weights_of(Extractor(3))) == {"weight", "bias"}
