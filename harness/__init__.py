"""ImmuneBench: can a released model be kept from harmful fine-tuning?

This module is the public face for authors of plugins and tracks and for notebooks; a track's own names are in its
package (`harness.probe`, `harness.diffusion`, `harness.deep`). Importing it loads no torch.
"""

from pydantic import BaseModel, ConfigDict, Field

from harness.api import release, run
from harness.checkpoints import checkpoint_folder
from harness.errors import ImmuneBenchError, PluginError, RunError, UsageError
from harness.kit.trial import Trial
from harness.meter import count_gradient
from harness.metric import Metric, Quantity, Value, write_values
from harness.plugin import Attacker, Defense, Plugin, PluginSpec
from harness.ranking import Ranking
from harness.registry import configured
from harness.result import Result, load
from harness.selection import Selection
from harness.stage import Folders, Located, Stage
from harness.store.tensors import load_tensors, save_tensors
from harness.track import Protocol, Repetition, Task, Track

__all__ = [
    "Attacker",
    "BaseModel",
    "ConfigDict",
    "Defense",
    "Field",
    "Folders",
    "ImmuneBenchError",
    "Located",
    "Metric",
    "Plugin",
    "PluginError",
    "PluginSpec",
    "Protocol",
    "Quantity",
    "Ranking",
    "Repetition",
    "Result",
    "RunError",
    "Selection",
    "Stage",
    "Task",
    "Track",
    "Trial",
    "UsageError",
    "Value",
    "checkpoint_folder",
    "configured",
    "count_gradient",
    "load",
    "load_tensors",
    "release",
    "run",
    "save_tensors",
    "write_values",
]
