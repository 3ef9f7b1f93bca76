"""ImmuneBench: can a released model be kept from harmful fine-tuning?

This module is what a plugin author and a notebook need; a track's own names are in its package (`harness.probe`).
Importing it loads no torch.
"""

from pydantic import Field

from harness.api import Result, release, run
from harness.errors import ImmuneBenchError, PluginError, RunError, UsageError
from harness.plugin import Attacker, Defense, Measure, Metric, Plugin, PluginSpec, Track
from harness.registry import configured

__all__ = [
    "Attacker",
    "Defense",
    "Field",
    "ImmuneBenchError",
    "Measure",
    "Metric",
    "Plugin",
    "PluginError",
    "PluginSpec",
    "Result",
    "RunError",
    "Track",
    "UsageError",
    "configured",
    "release",
    "run",
]
