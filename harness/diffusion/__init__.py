"""Text-to-image pipelines under fine-tuning: the names that a plugin author of this track needs.

They are listed in the stub beside this file and load, with torch, when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
