"""An attacker that undoes any invertible linear extractor by whitening the features first."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.probe import LinearProbe, ProbeAttacker, Split


class WhitenedDescent(ProbeAttacker):
    """Gradient descent on whitened features (a control of this harness, not a published attack).

    On the squared loss the first step is Newton's and reaches the optimum. On the logistic loss an upper bound on the
    curvature ensures that every step descends.
    """

    name = "whitened_descent"
    deterministic = True

    tolerance: float = Field(
        1e-12, gt=0, lt=1, description="directions with a singular value below this share of the largest are left out"
    )

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Take steps along the negative gradient, preconditioned by the pseudo-inverse of the curvature; yields the
        loss before each step."""
        _, singular, right = torch.linalg.svd(data.x, full_matrices=False)
        curvature = singular**2 / singular[0] ** 2 * model.smoothness(data)
        used = singular > self.tolerance * singular[0]
        basis, curvature = right[used], curvature[used]
        while True:
            loss, gradient = model.gradient(data)
            model.weight.data.sub_(basis.T @ ((basis @ gradient) / curvature))
            yield loss
