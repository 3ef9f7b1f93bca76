"""A control: the random initialisation of the trained extractors."""

from collections.abc import Iterator

from harness.probe import Extractor, ProbeDefense, ProbeTargets, initial_extractor


class RandomInit(ProbeDefense):
    """Torch's default random initialisation without training, from which the trained defenses start (control)."""

    name = "random_init"
    control = True

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Draw the weights of `model` with the seed of `targets`."""
        initial_extractor(model, targets.generator())
        yield 0.0
