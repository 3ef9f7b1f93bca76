"""The small pipeline and the concepts of the diffusion track's tests."""

from tests.diffusion.conftest import base, model, style, thing  # noqa: F401
