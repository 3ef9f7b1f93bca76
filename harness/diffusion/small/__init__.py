"""The small base model that ships with the harness: its vocabulary, training pictures, networks and weights."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Contains pipeline/, classifier.safetensors, contrastive.safetensors and their evaluation, evaluation.json."""
PIPELINE = WEIGHTS / "pipeline"
