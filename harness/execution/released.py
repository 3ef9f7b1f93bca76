"""Runs a defense and takes over what it releases: tensors with the base model's names, shapes and dtypes.

Nothing else of the model that the defense changed survives: no hooks, modules, frozen flags or Python objects. A
defense that does not come with the harness runs in a process that has held nothing but its arguments (see
`harness.execution.server`).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from harness import meter
from harness.bounded import parse_json, read_bytes
from harness.errors import PluginError, RunError
from harness.execution import determinism, server, surroundings
from harness.execution.failure import line
from harness.importing import import_plugin
from harness.plugin import PluginSpec
from harness.source import closure
from harness.stage import Stage
from harness.store.tensors import load_tensors, save_tensors

WEIGHTS = "weights.safetensors"
BESIDES = 2**24
"""Most bytes that a defense may give back besides the numbers of its weights, of at most 8 bytes each."""

Tensors = Mapping[str, torch.Tensor]


def weights_of(model: torch.nn.Module) -> Tensors:
    """All weights and buffers of `model` by name."""
    state: Tensors = model.state_dict()
    return state


def immunize(
    job: Stage,
    model: Any,
    targets: Any,
    out: Path,
    weights: Callable[[Any], Tensors] = weights_of,
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, torch.Tensor]:
    """Run the defense of `job` on `model` and save its run cost in the artifact folder `out`.

    model, targets: arguments of the defense, which may change both; a defense of others gets copies. weights: a
    function of a module that gives the tensors of a model by name. optional: shapes of tensors, by name, that the
    defense may add. Returns the released tensors. Raises `PluginError` if the defense breaks its contract, or if a
    tensor is not finite or has another name, shape or dtype.
    """
    spec = job.plugin
    assert spec is not None
    before = weights(model)
    base, size = {name: _form(value) for name, value in before.items()}, norm(before)
    call = Call(spec, model, targets, weights, job.seed or 0, torch.backends.cuda.matmul.allow_tf32)
    if spec.shipped or not server.possible():
        released, cost = call.run()
    else:
        shapes = [*(shape for shape, _ in base.values()), *(optional or {}).values()]
        released, cost = _run_apart(call, BESIDES + 8 * sum(map(math.prod, shapes)))
    _check(released, base, optional or {}, f"defense {spec.name}")
    ratio = norm(released) / size if size else 1.0
    if ratio > meter.LARGEST_NORM:
        cost.notes[meter.NORM] = ratio
    cost.save(out)
    return released


@dataclass(frozen=True)
class Call:
    """The call of a defense. spec: the defense. seed: of its draws. tf32: whether TensorFloat-32 is on. The others as
    for `immunize`."""

    spec: PluginSpec
    model: Any
    targets: Any
    weights: Callable[[Any], Tensors]
    seed: int
    tf32: bool

    def run(self) -> tuple[dict[str, torch.Tensor], meter.Cost]:
        """Run the defense; returns its tensors and its cost."""
        generator = self.spec.build().generator(self.model, self.targets)
        cost = meter.pull(generator, f"defense {self.spec.name}")
        tensors = {name: value.detach() for name, value in self.weights(self.model).items()}
        return tensors, cost.model_copy(update={"notes": dict(getattr(self.targets, "notes", {}))})

    def run_alone(self, folder: Path) -> None:
        """Run the defense in a process of its own and save its tensors and its cost in `folder`."""
        with determinism.isolated(self.seed), surroundings.preserved(alone=True):
            torch.backends.cuda.matmul.allow_tf32 = self.tf32
            import_plugin(self.spec.module, self.spec.file, alone=True)
            if self.spec.build().source() != self.spec.source:
                raise RunError(f"defense '{self.spec.name}' was edited during the run: run the same command again")
            tensors, cost = self.run()
        save_tensors({name: value.clone() for name, value in tensors.items()}, folder / WEIGHTS)
        cost.save(folder)


def _run_apart(call: Call, limit: int) -> tuple[dict[str, torch.Tensor], meter.Cost]:
    """`call.run()` in a process of its own. limit: most bytes that it may give back."""
    with tempfile.TemporaryDirectory(prefix="immunebench-") as name:
        folder = Path(name)
        server.run(call, folder, closure(call.spec.module_spec))
        try:
            cost = meter.Cost.model_validate(parse_json(read_bytes(folder / meter.FILE, BESIDES)))
            return load_tensors(folder / WEIGHTS, limit), cost
        except (OSError, ValueError, SafetensorError) as error:
            raise PluginError(f"defense {call.spec.name} gave back no weights: {line(error)}") from None


def _check(released: Tensors, base: Mapping[str, Any], optional: Mapping[str, tuple[int, ...]], who: str) -> None:
    """Raise `PluginError` if the `released` tensors are not of the form that the track takes."""
    if wrong := sorted((base.keys() - released.keys()) | (released.keys() - base.keys() - optional.keys())):
        lacks = "lacks" if wrong[0] in base else "has more tensors than the base model:"
        raise PluginError(f"{who} released a model that {lacks} {wrong[0]}: change weights in place, and no modules")
    for name, value in released.items():
        shape, dtype = base.get(name) or (optional[name], torch.get_default_dtype())
        if tuple(value.shape) != shape:
            raise PluginError(f"{who} released {name} with the shape {tuple(value.shape)}; the base model has {shape}")
        if value.dtype != dtype and not (_is_half(dtype) and value.dtype == torch.float32):  # trained weights are
            raise PluginError(f"{who} released {name} as {value.dtype}; the base model has {dtype}")
        if not value.isfinite().all():
            raise PluginError(f"{who} left weights that are not finite")


def _is_half(dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16)


def _form(value: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(value.shape), value.dtype


def norm(tensors: Tensors) -> float:
    """The Euclidean norm of all floating-point tensors together."""
    squares = [float(value.double().square().sum()) for value in tensors.values() if value.is_floating_point()]
    return math.sqrt(math.fsum(squares))
