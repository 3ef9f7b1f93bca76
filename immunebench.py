"""ImmuneBench: can a released model be kept from harmful fine-tuning?

This module has the public names of `harness`, where they are documented. `python -m immunebench` is the command line.
"""

from harness import *  # noqa: F403
from harness import __all__  # noqa: F401

if __name__ == "__main__":
    from harness.cli import main

    main()
