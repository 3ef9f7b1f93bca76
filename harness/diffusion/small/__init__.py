"""The small base model that ships with the harness: its vocabulary, training pictures, networks and weights."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Holds pipeline/, classifier.safetensors, contrastive.safetensors, and evaluation.json, what they reach."""
PIPELINE = WEIGHTS / "pipeline"
