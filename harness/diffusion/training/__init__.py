"""The recipe that trained the shipped small base model: `python -m harness.diffusion.training.recipe DIR`."""
