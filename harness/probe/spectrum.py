"""The spectrum of features, which the track of deep networks shares (see `harness.spectrum`)."""

from harness.spectrum import FLOOR as FLOOR
from harness.spectrum import Policy as Policy
from harness.spectrum import Spectrum as Spectrum
from harness.spectrum import condition_number as condition_number
from harness.spectrum import gram as gram
