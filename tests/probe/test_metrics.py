"""The track's metrics by hand, and a third party's."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from harness.execution.executors import local
from harness.execution.scheduler import run
from harness.metric import read_values
from harness.plan import make
from harness.probe.data import BenignTask, ProbeTargets, Split
from harness.probe.metrics.alignment import Alignment
from harness.probe.metrics.batch_conditioning import BatchConditioning
from harness.probe.metrics.conditioning import Conditioning
from harness.probe.metrics.convergence import Convergence
from harness.probe.metrics.definition import Definition
from harness.probe.metrics.optimum import Optimum as OptimumMetric
from harness.probe.metrics.retention import Retention
from harness.probe.model import Extractor
from harness.probe.optimum import Optimum, optimum, scores
from harness.probe.plugin import AttackData, ReleasedData, Trajectory
from harness.probe.spectrum import Spectrum
from harness.selection import Selection
from harness.store import Store
from harness.suite_reader import load


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def diagonal(*values):
    return torch.diag(tensor(*values))


def released(metric, ours, undefended):
    """Values of a metric, by metric, role, variant and split; `ours` and `undefended` are the benign and the harmful
    features, the same on training and held-out rows, with targets 1."""
    optima = []
    for features in (ours, undefended):
        splits = [Split(x, torch.ones(len(x), dtype=torch.float64)) for x in features]
        optima.append(dict(zip(("benign", "harmful"), (optimum(s, s, "squared", None) for s in splits), strict=True)))
    rows = ProbeTargets(*splits)
    data = ReleasedData(
        benign=rows.benign,
        harmful=rows.harmful,
        heldout=rows,
        score=None,
        further={},
        loss="squared",
        optima=optima[0],
        undefended=optima[1],
    )
    values = metric.measure(Extractor(2), data)
    return {tuple(value.get(k) for k in ("metric", "role", "variant", "split")): value for value in values}


UNDEFENDED = (diagonal(2, 1), diagonal(2, 1))


def test_rir_by_hand():
    """Benign eigenvalues 4, 1 → 1, 1 and harmful 4, 1 → 36, 1: (i) = 36/4 = 9, (ii) = 1/4, RIR = 36."""
    rows = released(Conditioning(), (diagonal(1, 1), diagonal(6, 1)), UNDEFENDED)
    for policy in ("range", "fixed-rank"):
        assert rows["rir", None, policy, "train"]["value"] == pytest.approx(36)
        assert rows["kappa_ratio", "harmful", policy, "train"]["value"] == pytest.approx(9)
        assert rows["kappa_ratio", "benign", policy, "heldout"]["value"] == pytest.approx(0.25)
    assert rows["rir", None, "floor", "train"]["value"] == pytest.approx(36, rel=1e-4)  # full rank: floor not hit
    assert "flag" not in rows["rir", None, "floor", "train"]
    assert rows["rank", "benign", None, "train"]["value"] == 2
    rows = released(Definition(), (diagonal(1, 1), diagonal(6, 1)), UNDEFENDED)
    for part in ("definition", "definition_a", "definition_b", "definition_c"):
        assert rows[part, None, "range", "train"]["value"] == 1


def test_the_floor_raises_a_flag_and_the_definition_ignores_scale():
    """Rank one of two: under floor κ = σ₁/1e-6, so features three times larger have nine times the κ on both sides;
    RIR is 1 and, after normalisation, neither side has changed."""
    one = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    rows = released(Conditioning(), (3 * one, 3 * one), (one, one))
    assert rows["kappa_ratio", "harmful", "floor", "train"]["value"] == pytest.approx(9, rel=1e-5)
    assert rows["rir", None, "floor", "train"]["value"] == pytest.approx(1)
    assert rows["rir", None, "floor", "train"]["flag"] == "floor"
    assert "flag" not in rows["rir", None, "range", "train"]
    rows = released(Definition(), (3 * one, 3 * one), (one, one))
    assert rows["definition_a", None, "floor", "train"]["value"] == 0
    assert rows["definition_b", None, "floor", "train"]["value"] == 1


def test_a_fallen_rank_has_no_fixed_rank_value_and_a_note_says_why():
    row = released(Conditioning(), (diagonal(2, 1), diagonal(3, 0)), UNDEFENDED)["rir", None, "fixed-rank", "train"]
    assert row["value"] is None
    assert "rank has fallen" in row["note"]


def test_a_destroyed_benign_task_fails_part_c():
    """The benign best loss rises from 0 to ½; a probe of zeros has 1."""
    features = (diagonal(2, 0), diagonal(2, 1))
    assert released(Definition(), features, UNDEFENDED)["definition_c", None, "range", "train"]["value"] == 0
    assert released(Definition(kept=0.6), features, UNDEFENDED)["definition_c", None, "range", "train"]["value"] == 1
    assert released(OptimumMetric(), features, UNDEFENDED)["best_loss", "benign", None, "train"]["value"] == 0.5


def test_kappa_policies_and_bounds_are_settings():
    rows = released(Definition(policies=("range",), much=10), (diagonal(1, 1), diagonal(6, 1)), UNDEFENDED)
    assert {variant for _, _, variant, _ in rows} == {"range"}
    assert rows["definition_a", None, "range", "train"]["value"] == 0  # 9-fold


def of_inputs(metric, benign, harmful, model):
    """The values of a metric by metric, role and variant, of an extractor with these inputs."""
    rows = [Split(x, torch.ones(len(x), dtype=torch.float64)) for x in (benign, harmful)]
    data = ReleasedData(
        benign=rows[0], harmful=rows[1], heldout=ProbeTargets(*rows), score=None, further={}, loss="squared",
        optima={}, undefended={},
    )  # fmt: skip
    values = metric.measure(model, data)
    return {(value["metric"], value.get("role"), value.get("variant")): value["value"] for value in values}


def aligned(benign, harmful, **settings):
    return of_inputs(Alignment(**settings), benign, harmful, Extractor(benign.shape[1]))


def test_alignment_by_hand():
    """Eigenvalues 16, 4, 1 of 21: one direction has 76 %, two 95 %. The harmful leading ones are the second and third
    axis at 90 %, so one of two directions is shared; Hessians with the same eigenvectors commute."""
    values = aligned(diagonal(4, 2, 1), diagonal(1, 4, 2), energies=(50, 90))
    assert values["subspace_rank", "benign", "50"] == 1
    assert values["subspace_rank", "harmful", "90"] == 2
    assert values["subspace_overlap", None, "50"] == pytest.approx(0)
    assert values["subspace_overlap", None, "90"] == pytest.approx(0.5)
    assert values["commutator", None, None] == pytest.approx(0)


@pytest.mark.parametrize("angle", [0, 0.3, math.pi / 4, 1.2, math.pi / 2])
def test_alignment_of_two_lines_is_the_squared_cosine_of_their_angle(angle):
    """For unit u, v: ‖uuᵀvvᵀ − vvᵀuuᵀ‖_F = √2 |cos sin|."""
    u, v = tensor(1, 0), tensor(math.cos(angle), math.sin(angle))
    values = aligned(3 * u[None], 7 * v[None])
    assert values["subspace_overlap", None, "99"] == pytest.approx(math.cos(angle) ** 2)
    assert values["commutator", None, None] == pytest.approx(math.sqrt(2) * abs(math.cos(angle) * math.sin(angle)))


def batches_and_rir(model, sizes, **settings):
    """RIR of batches, and of all rows, of an extractor with random inputs of these sizes."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(n, 3, dtype=torch.float64, generator=generator) * tensor(4, 2, 1) for n in sizes]
    spectra = [
        [Spectrum(torch.linalg.svdvals(f(x).detach()), 3, len(x)) for x in inputs] for f in (model, Extractor(3))
    ]
    (benign, harmful), (benign0, harmful0) = [[s.kappa("range") for s in sides] for sides in spectra]
    return of_inputs(BatchConditioning(**settings), *inputs, model), harmful / harmful0 / (benign / benign0)


@pytest.fixture
def stretched():
    model = Extractor(3)
    with torch.no_grad():
        model.weight.copy_(tensor([1.0, 0.5, 0.0], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]))
    return model


def test_a_batch_of_all_rows_has_the_rir_of_all_rows(stretched):
    values, rir = batches_and_rir(stretched, (30, 30), rows=(30,), batches=4)
    for name in ("batch_rir", "batch_rir_low", "batch_rir_high"):
        assert values[name, None, "range 30 rows"] == pytest.approx(rir)
    assert values["batch_rir_bias", None, "range 30 rows"] == pytest.approx(1)


def test_batches_have_an_interval_and_a_bias_and_fit_the_rows(stretched):
    values, rir = batches_and_rir(stretched, (40, 30), rows=(5, 20, 31), policies=("range",))
    assert {variant for _, _, variant in values} == {"range 5 rows", "range 20 rows"}
    widths = []
    for rows in (5, 20):
        low, middle, high = (values[f"batch_rir{end}", None, f"range {rows} rows"] for end in ("_low", "", "_high"))
        assert low < middle < high
        assert values["batch_rir_bias", None, f"range {rows} rows"] == pytest.approx(middle / rir)
        widths.append(math.log(high / low))
    assert widths[0] > 2 * widths[1]
    assert values == batches_and_rir(stretched, (40, 30), rows=(5, 20, 31), policies=("range",))[0]


def test_retention_is_of_the_benign_task_and_of_further_ones():
    """The extractor keeps the first of two inputs, which is the benign target; the two further targets are the first
    and the second."""
    inputs = torch.randn(2, 40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = [[Split(x, x[:, column]) for x in inputs] for column in (0, 1)]
    train, heldout = (ProbeTargets(rows[0][part], rows[1][part]) for part in (0, 1))
    data = ReleasedData(
        benign=train.benign,
        harmful=train.harmful,
        heldout=heldout,
        score="spearman",
        further={name: BenignTask(*rows[column], "spearman") for name, column in (("first", 0), ("second", 1))},
        loss="squared",
        optima={},
        undefended={},
    )
    model = Extractor(2)
    values = [{value["role"]: value["value"] for value in Retention().measure(model, data)}]
    with torch.no_grad():
        model.weight[1, 1] = 0
    values += [{value["role"]: value["value"] for value in Retention().measure(model, data)}]
    assert values[0] == {"benign": pytest.approx(1), "other": pytest.approx(1)}
    assert values[1]["benign"] == pytest.approx(1)
    assert abs(values[1]["other"] - 0.5) < 0.25  # one of two, the other by chance
    constant = replace(data, score=None)
    assert [value["role"] for value in Retention().measure(model, constant)] == ["other"]


def test_an_optimum_reads_its_own_tensors():
    split = Split(diagonal(2, 1), tensor(1, 0))
    best = optimum(split, split, "squared", "accuracy")
    again = Optimum.from_tensors(best.tensors())
    assert (again.best_loss, again.null_loss, again.best_score) == (best.best_loss, 0.5, 1.0)
    assert torch.equal(again.weights, best.weights)
    assert (again.heldout.rows, again.heldout.dim, again.train.rank) == (2, 2, 2)


def trajectory(losses, **fields):
    split = Split(torch.eye(2, dtype=torch.float64), tensor(1, 0))
    spectrum = Spectrum(tensor(1, 1), 2, 2)
    best = Optimum(spectrum, spectrum, tensor(3, 5), 1.0, best_loss=1.0, null_loss=11.0, best_score=None)
    given = {"steps": (0, 2), "heads": torch.tensor([[0.0, 3.0], [0.0, 4.0]], dtype=torch.float64)}
    return Trajectory(
        **(given | {"biases": tensor(0, 1), "validation": tensor(0, 1)} | fields),
        losses=tensor(*losses),
        optimum=best,
        extractor=Extractor(2),
        inputs={"train": split, "heldout": split},
    )


def convergence(losses, undefended, success=0.1, **fields):
    data = AttackData(
        role="harmful", loss="squared", success=success, score="accuracy", undefended=trajectory(undefended)
    )
    values = Convergence().measure(trajectory(losses, **fields), data)
    return {(value["metric"], value.get("step")): value for value in values}


def test_convergence_by_hand():
    """Losses 11, 6, 1.5 above a best of 1: excess 1, .5, .05. Heads (0,0), (3,4) with intercepts 0, 1 against w* =
    (3,5) with 1: 35/35, 1/35. Held-out outputs are (0,0), (4,5), targets (1, 0): accuracy ½ each."""
    rows = convergence([11, 6, 1.5], [11, 1.5, 1])
    assert rows["excess_loss", 0]["value"] == 1
    assert rows["excess_loss", 2]["value"] == pytest.approx(0.05)
    assert rows["norm_ratio", 2]["value"] == pytest.approx(1 / 35)
    assert rows["score", 2]["value"] == 0.5
    assert rows["steps_to_success", None]["value"] == 2
    assert rows["slow_down", None]["value"] == 2  # two steps against one
    assert "flag" not in rows["slow_down", None]
    assert convergence([11, 6, 1.5], [11, 6, 1], success=0.5)["slow_down", None]["value"] == 1


@pytest.mark.parametrize(
    ("validation", "success"),
    [
        ((0.1, 0.5, 0.3), [0, 1, 1]),  # picks step 1 and keeps it
        ((0.1, 0.5, 0.5), [0, 1, 0]),  # of equal ones the last
        ((0.9, 0.5, 0.3), [0, 0, 0]),  # held-out rows choose nothing
    ],
)
def test_success_is_that_of_the_step_that_validation_picks(validation, success):
    """Outputs (0,0), (1,0), (1,1) on targets (1, 0): accuracy ½, 1, ½, of which ½ is chance."""
    heads = torch.tensor([[-0.1, 0.9, 0.9], [-0.1, -0.1, 0.9]], dtype=torch.float64)
    fields = {"heads": heads, "biases": tensor(0.1, 0.1, 0.1), "validation": tensor(*validation), "steps": (0, 1, 2)}
    rows = convergence([11, 6, 1.5], [11, 1.5, 1], **fields)
    assert [rows["success", step]["value"] for step in (0, 1, 2)] == success
    assert [rows["score", step]["value"] for step in (0, 1, 2)] == [0.5, 1, 0.5]


def test_an_attack_without_success_gives_a_lower_bound():
    rows = convergence([11, 10, 9], [11, 1.5, 1])
    assert rows["steps_to_success", None]["value"] == rows["slow_down", None]["value"] == 2
    assert rows["steps_to_success", None]["flag"] == rows["slow_down", None]["flag"] == "lower-bound"


def test_no_slow_down_where_the_undefended_model_withstands_the_attack():
    rows = convergence([11, 1.5, 1], [11, 10, 9])
    assert rows["slow_down", None]["value"] is None
    assert "undefended" in rows["slow_down", None]["note"]


def test_scores_by_hand():
    out = torch.tensor([[0.6, 0.4], [0.2, 0.9]], dtype=torch.float64)
    assert scores(out, tensor(1, 0), "accuracy").tolist() == [1.0, 0.0]
    # y = (0, 2): total 2; residuals (0.5² + 1²) and 0.
    out = torch.tensor([[0.5, 0.0], [1.0, 2.0]], dtype=torch.float64)
    assert scores(out, tensor(0, 2), "r2").tolist() == pytest.approx([1 - 1.25 / 2, 1.0])
    # Ranks 1, 2, 3, 4 against 1, 2, 4, 3: 1 − 6·2/(4·15). Ties share a rank: 1.5, 1.5, 3.5, 3.5. Constant outputs: 0.
    out = torch.tensor([[1.0, 1, 9, 7], [2, 1, 8, 7], [90, 5, 7, 7], [30, 5, 6, 7]], dtype=torch.float64)
    assert scores(out, tensor(1, 2, 3, 4), "spearman").tolist() == pytest.approx([0.8, 4 / 20**0.5, -1, 0])


HELDOUT_LOSS = '''"""A third party's metric of the attacked model."""

from harness import Quantity
from harness.probe import ProbeMetric, losses


class HeldoutLoss(ProbeMetric):
    """Held-out loss of the attacked probe over that of the same attack on undefended features (a control)."""

    deterministic = True
    measures = "attacked"
    quantities = (Quantity(name="heldout_loss", title="held-out loss ratio", description="L(w_t)/L₀(w_t), held out"),)

    def measure(self, model, data):
        """At the measured steps."""
        for column, step in enumerate(model.steps):
            sides = [(side.heldout, side.heads[:, column]) for side in (model, data.undefended)]
            ours, base = (losses(split.x @ head, split.y, data.loss) for split, head in sides)
            yield self.value(float(ours / base), split="heldout", step=step)
'''


def test_a_third_partys_metric_of_the_attacked_model_is_one_file(tiny: Path, tmp_path: Path):
    """It adds its own jobs alone, changes no other key, and its values appear."""
    assert len(HELDOUT_LOSS.splitlines()) <= 30
    plugin = tmp_path / "heldout_loss.py"
    plugin.write_text(HELDOUT_LOSS)
    content = yaml.safe_load(tiny.read_text())
    content["grids"][0]["defenses"] = {"none": None, "whitening": None}
    tiny.write_text(yaml.safe_dump(content))
    bare, more = (make(load(str(tiny), Selection(plugins=plugins))) for plugins in ((), (plugin,)))
    added = more.jobs.keys() - bare.jobs.keys()
    assert not bare.jobs.keys() - more.jobs.keys()
    assert {job.plugin.name for key, job in more.jobs.items() if key in added} == {"heldout_loss"}
    assert len(added) == 2 * 2 * 2  # defenses, attackers, roles; nothing is random

    own = more.part(added)
    store = Store(tmp_path / "store")
    assert run(own, store, local(1)) == {}
    for cell in own.cells:
        ratios = [value["value"] for value in read_values(store.folder(cell.job.key)) if value["step"] > 0]
        assert len(ratios) == 2
        assert all((ratio == 1) == (cell.coordinates["defense"] == "none") for ratio in ratios)
        json.dumps(dict(cell.coordinates))
