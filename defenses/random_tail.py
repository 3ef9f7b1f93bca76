"""A control: what the trunk allows without the pre-trained tail."""

from collections.abc import Iterator

from harness.deep import DeepDefense, DeepTargets, Released, Rows, fit_head, in_parts, seeded_reset


class RandomTail(DeepDefense):
    """Discards the pre-trained tail: random weights and a new benign head (control)."""

    name = "random_tail"
    control = True

    def immunize(self, model: Released, targets: DeepTargets) -> Iterator[float]:
        """Initialise the tail with the seed of `targets`, and fit the head on its features."""
        seeded_reset(model.tail, targets.seed)
        rows = Rows(in_parts(model.tail, targets.benign.x), targets.benign.y)
        head = fit_head(*rows.split(), model.head.out_features)
        model.head.load_state_dict(head.state_dict())
        yield 0.0
