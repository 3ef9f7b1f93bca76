"""Track 2: text-to-image pipelines under fine-tuning. What a plugin author of this track needs.

The names are those of the stub beside this file and load, with torch, when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
