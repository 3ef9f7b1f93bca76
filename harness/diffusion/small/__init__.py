"""The small base that ships: its world, its recipe and its weights."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""pipeline/, classifier.safetensors, contrastive.safetensors, and figures.json, what they reach"""
PIPELINE = WEIGHTS / "pipeline"
