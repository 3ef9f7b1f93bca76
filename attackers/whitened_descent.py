"""An attacker that undoes any invertible linear extractor: it whitens the features first."""

from collections.abc import Iterator

import torch
from pydantic import Field

from harness.probe import LinearProbe, ProbeAttacker, Split


class WhitenedDescent(ProbeAttacker):
    """Gradient descent on whitened features; on the squared loss its first step is Newton's.

    A control: nobody has published it. That step reaches the optimum. On the logistic loss every step descends, by a
    bound on the curvature.
    """

    name = "whitened_descent"
    deterministic = True

    tolerance: float = Field(
        1e-12, gt=0, lt=1, description="directions whose singular value is below this share of the largest are left out"
    )

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """Step against the gradient, preconditioned by the curvature's pseudo-inverse."""
        _, singular, right = torch.linalg.svd(data.x, full_matrices=False)
        curvature = singular**2 / singular[0] ** 2 * model.smoothness(data)
        used = singular > self.tolerance * singular[0]
        basis, curvature = right[used], curvature[used]
        while True:
            loss, gradient = model.gradient(data)
            model.weight.data.sub_(basis.T @ ((basis @ gradient) / curvature))
            yield loss
