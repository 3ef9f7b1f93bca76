"""The released model: the trained tail of a network, a linear map of its features, and the head of the benign task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from harness import checkpoints
from harness.deep.rows import Rows
from harness.errors import RunError
from harness.meter import count_gradient
from harness.store.tensors import save_tensors

FILE = "model.safetensors"
MAP = "map.weight"
"""Name of the weight of the linear map in the file; a release without a map has none."""
AT_ONCE = 256
"""Rows that a network takes at once where no gradients are computed."""


class Network(nn.Module):
    """A network in parts, of which the first ones may be left out.

    trunk: maps normalised pictures (rows, 3, size, size) to activations (rows, …); None: the network takes activations.
    tail: maps activations to features (rows, dim). map: a linear map of the features; None: there is none. head: maps
    features to outputs (rows, classes).
    """

    def __init__(
        self, tail: nn.Module, head: nn.Linear, trunk: nn.Module | None = None, map: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.trunk = trunk or nn.Identity()
        self.tail = tail
        self.map = map
        self.head = head

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The features (rows, dim), after the map, of inputs `x` (rows, …)."""
        features: torch.Tensor = self.tail(self.trunk(x))
        return features if self.map is None else self.map(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs (rows, classes) of inputs `x` (rows, …)."""
        outputs: torch.Tensor = self.head(self.features(x))
        return outputs

    def loss(self, rows: Rows) -> torch.Tensor:
        """The mean cross-entropy on `rows`: a differentiable scalar. It counts as a gradient evaluation."""
        count_gradient(len(rows))
        return nn.functional.cross_entropy(self(rows.x), rows.y)


class Released(Network):
    """The model that is released; it takes activations. Its features may pass a linear map (see `apply_map`).

    tail: maps activations to features. dim: number of features. classes: of the benign task.
    """

    def __init__(self, tail: nn.Module, dim: int, classes: int) -> None:
        super().__init__(tail, zero_linear(dim, classes))
        self.eval()

    @torch.no_grad()
    def apply_map(self, matrix: torch.Tensor) -> None:
        """Multiply the features by a matrix and the head by its inverse, so the benign outputs stay as they are.

        matrix: T (dim, dim), invertible. The features become f·T and the head's weight W·T⁻ᵀ, computed in float64.
        """
        inverse = torch.linalg.inv(matrix.double())
        self.head.weight.copy_(self.head.weight.double() @ inverse.T)
        before = torch.eye(len(matrix), dtype=torch.float64) if self.map is None else self.map.weight.double().T
        self.map = self._linear(before @ matrix.double())

    def _linear(self, matrix: torch.Tensor) -> nn.Linear:
        layer = zero_linear(len(matrix), len(matrix.T), bias=False)
        layer.weight.data.copy_(matrix.T)
        return layer

    def save(self, folder: Path) -> None:
        """Save all weights and buffers in the folder `folder`."""
        save_tensors({name: value.detach() for name, value in self.state_dict().items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Set the weights and buffers to those saved in the folder `folder`, of a release for the same task. Raises
        `RunError` if it has no such file, or if its tensors have other names, sizes or values that are not finite."""
        path = folder / FILE
        tensors = checkpoints.read_tensors(folder, FILE)
        self.map = self._linear(tensors[MAP].T) if MAP in tensors else None
        own, given = _sizes(self.state_dict()), _sizes(tensors)
        if wrong := sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name)):
            name = wrong[0]
            raise RunError(
                f"{path} has {len(wrong)} tensors that do not fit the task's model: {name} has the size "
                f"{given.get(name)} there, and must have {own.get(name)}"
            )
        self.load_state_dict(tensors)
        if not is_finite(self):
            raise RunError(f"{path} has values that are not finite")


def zero_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer of zeros, made without random numbers. inputs, outputs: their numbers. bias: whether it has
    one."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    assert isinstance(layer, nn.Linear)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def is_finite(model: nn.Module) -> bool:
    """Whether all weights and buffers of `model` are finite."""
    return all(bool(value.isfinite().all()) for value in model.state_dict().values())


@torch.no_grad()
def in_parts(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The outputs of `function` on the rows of `x`, a part at a time, without gradients."""
    return torch.cat([function(part) for part in x.split(AT_ONCE)])


def seeded_reset(module: nn.Module, seed: int) -> None:
    """Initialise `module` and all in it as its library does, with random numbers from `seed`; the state of torch's own
    generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for child in module.modules():
            for reset in ("reset_parameters", "_reset_parameters"):
                if callable(method := getattr(child, reset, None)):
                    method()
