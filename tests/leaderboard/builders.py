"""Records built by hand, so that boards can be tested without a run."""

import pickle
from itertools import product

import numpy as np

from harness.metric import Quantity
from harness.plugin import PluginSpec
from harness.ranking import Ranking
from harness.records import Records
from harness.records import frame as frame_of
from harness.submission.merge import Merged
from harness.suite import Grid, Suite

ASR = Ranking(
    value={"metric": "asr", "role": "harmful", "variant": None, "split": None},
    better="lower",
    broken=0.8,
    resolution=0.05,
    retention=[{"metric": "retention"}],
)
QUANTITIES = [
    Quantity(name="asr", title="ASR", unit="", better="lower", description="attack success rate"),
    Quantity(name="retention", title="retention", better="higher", description="what is retained"),
    Quantity(name="rir", title="RIR", better="higher", scale="log", description="(i)/(ii)"),
    Quantity(name="seconds", title="s", unit="s", description="time"),
]
CONTROLS = ("ascent", "noise", "random_init")


def spec(kind, label, call=None):
    """A plugin that need not be installed, called as its row if a plugin can be; `CONTROLS` are controls. call: by
    default without settings."""
    name = label if label.isidentifier() else "plugin"
    return PluginSpec(
        kind=kind,
        name=name,
        params={"label": label},
        source="0" * 64,
        call=call or f"{name.title().replace('_', '')}()",
        control=kind == "defense" and label in CONTROLS,
    )


def asr(defense, attacker, task, seed, value, **fields):
    """One ranking value: the attack success rate after the last step."""
    return {
        "suite": "s", "suite_version": 1, "grid": "g", "track": "elsewhere", "task": task, "defense": defense,
        "attacker": attacker, "seed": seed, "measured_by": "asr", "metric": "asr", "role": "harmful", "step": 60,
        "value": value, "status": "ok", "key": f"{defense}{attacker}{task}{seed}", **fields,
    }  # fmt: skip


def cells(values, tasks=("a", "b"), seeds=(1, 2, 3)):
    """The ranking values of a grid. values: defense → attacker → an ASR, or a function of task and seed."""
    return [
        asr(defense, attacker, task, seed, value(task, seed) if callable(value) else value)
        for defense, attackers in values.items()
        for attacker, value in attackers.items()
        for task in tasks
        for seed in seeds
    ]


def curves(costs, attacker="lora", tasks=("a", "b"), seeds=(1, 2, 3, 4)):
    """Attack success rates over 100 steps that reach .8 at a cost to break. costs: defense → a cost above 10, which
    varies by some per cent between cells; above 90 the attack does not reach 1, above 100 it does not succeed."""
    rows = []
    for place, (defense, cost) in enumerate(costs.items()):
        draws = np.random.default_rng(place).normal(1, 0.02, (len(tasks), len(seeds)))
        for (task, seed), factor in zip(product(tasks, seeds), draws.ravel(), strict=True):
            for step in range(10, 101, 10):
                value = float(np.clip(0.8 + 0.02 * (step - cost * factor), 0, 1))
                rows.append(asr(defense, attacker, task, seed, value, step=step))
    return rows


def retained(shares, tasks=("a", "b"), seeds=(1, 2, 3, 4)):
    """Retention of released models. shares: by defense."""
    released = {"metric": "retention", "measured_by": "retention", "role": "benign", "step": None}
    return [
        asr(defense, None, task, seed, share + seed / 1000) | released
        for defense, share in shares.items()
        for task in tasks
        for seed in seeds
    ]


def build(rows, calls=None, members=None, older=False, tier="", grids=None, suite=None, **fields):
    """Records of rows, with a suite that has what they name; labels are not checked, so that they may be hostile.

    calls: by defense or attacker, the call of its row. members: by task, what it is made of. fields: of every grid
    (`ranking`, `quantities`, `changed`, …). grids: by name, fields of one grid alone. suite: further fields of the
    suite.
    """
    frame = frame_of(rows)
    made = []
    for name in frame["grid"].unique():
        part = frame[frame["grid"] == name]
        made.append(_grid(name, part, calls or {}, members or {}, {**fields, **(grids or {}).get(name, {})}))
    name, version = frame["suite"].iloc[0], int(frame["suite_version"].iloc[0])
    whole = Suite(name=name, version=version, title="A suite", description="", grids=made, **(suite or {}))
    return Records(whole, frame, tier, older)


def _grid(name, part, calls, members, fields):
    labels = {kind: list(part[kind].dropna().unique()) for kind in ("defense", "attacker")}
    rows = {kind: {label: spec(kind, label, calls.get(label)) for label in labels[kind]} for kind in labels}
    tasks = list(part["task"].unique())
    seeds = sorted(int(seed) for seed in part["seed"].dropna().unique()) or [1]
    metrics = {label: spec("metric", label) for label in part["measured_by"].dropna().unique() if label != "cost"}
    return Grid.model_construct(**{
        "name": name, "track": part["track"].iloc[0], "tasks": [{"name": task} for task in tasks], "protocol": {},
        "defenses": rows["defense"], "attackers": rows["attacker"], "metrics": metrics, "seeds": seeds,
        "reference": spec("defense", "none", calls.get("none")), "ranking": ASR,
        "members": {task: list(members.get(task, [task])) for task in tasks}, "quantities": QUANTITIES, **fields,
    })  # fmt: skip


def save(records, path, published=None):
    """Leave records in a file, where a run or a submitter leaves a submission; `load` reads it. published: a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suite = records.suite.model_copy(update={"published": published})
    path.write_bytes(pickle.dumps(Records(suite, records.frame, records.tier, records.older)))


def load(paths, plugins=()):
    """In place of `merge.load`: the records of one file that `save` wrote, with the pictures beside it."""
    (path,) = paths
    records = pickle.loads(path.read_bytes())
    return Merged(records, {path.name: "computed somewhere"}, sorted(path.parent.glob("*.png")), [path])
