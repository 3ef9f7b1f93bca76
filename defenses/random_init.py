"""The control that a trained extractor must beat: its own random start."""

from collections.abc import Iterator

from harness.probe import Extractor, ProbeDefense, ProbeTargets, initial_extractor


class RandomInit(ProbeDefense):
    """Torch's default random initialisation, untrained: where the trained defenses start."""

    name = "random_init"
    control = True

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Draw the weights."""
        initial_extractor(model, targets.generator())
        yield 0.0
